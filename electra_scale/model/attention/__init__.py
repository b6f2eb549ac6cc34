"""Attention inside documents: queries, keys and values and where documents lie go in, their context comes out."""
