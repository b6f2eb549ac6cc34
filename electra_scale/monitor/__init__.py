"""Monitoring: sums of a step go in, metrics, TensorBoard, progress and alarms come out; changes nothing."""
