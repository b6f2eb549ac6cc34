"""Cleaning: a raw document goes in, its cleaned text comes out, or the reason why it is dropped."""
