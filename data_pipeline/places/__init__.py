"""Folders and S3 buckets: a place's name goes in, its files come out, whole or not at all."""
