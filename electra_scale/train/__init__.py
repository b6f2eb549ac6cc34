"""The training run: objective over a micro-batch, DeepSpeed engine, checkpoints, loop."""
