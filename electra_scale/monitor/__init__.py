"""Values on their way to people: sums over the global batch, TensorBoard, metrics.jsonl, progress."""
