"""Tokenizing: cleaned text goes in, a vocabulary and token ids come out."""
