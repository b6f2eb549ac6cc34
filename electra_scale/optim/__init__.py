"""Optimization: named parts of the model go in, parameter groups with rates and the replicated updates come out."""
