"""Training data: a store goes in, batches come out in an order that no number of ranks changes."""
