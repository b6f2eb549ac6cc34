"""Monitoring: sums of a step go in, metrics, TensorBoard, trackers, progress and alarms come out; changes nothing."""
