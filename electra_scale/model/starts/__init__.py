"""Starts: weights that a run or a publisher left go in, first weights of our networks and a table of them come out."""
