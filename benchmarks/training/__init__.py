"""The training step, checkpoints and stops: a recipe goes in, seconds and memory come out."""
