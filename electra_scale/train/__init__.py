"""Training: a recipe goes in, a run folder with checkpoints and metrics comes out."""
