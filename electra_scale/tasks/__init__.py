"""Tasks: hidden states and a corruption go in, named loss terms and sums for metrics come out."""
