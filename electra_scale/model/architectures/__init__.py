"""Encoders: embedded tokens and a layout go in, hidden states come out; one file an architecture."""
