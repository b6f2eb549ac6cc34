"""Checkpoints: the state of a run goes in, whole and checked files come out, here and in a bucket."""
