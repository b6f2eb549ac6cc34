"""Corruption: a batch goes in, replaced tokens with labels and weights come out; one file a method."""
