"""Leaving training: a run or a model that a user names goes in, a folder that transformers opens comes out."""
