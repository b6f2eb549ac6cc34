"""Folders and S3 buckets: the name of a place goes in, its files come out, whole or not at all."""
