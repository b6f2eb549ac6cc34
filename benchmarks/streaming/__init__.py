"""Streaming of a large store: gigabytes go in, memory and waiting times come out."""
