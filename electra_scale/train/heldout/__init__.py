"""Held-out text: weights go in, evaluation metrics and the variance of draws come out."""
