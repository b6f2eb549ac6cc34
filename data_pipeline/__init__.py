"""Offline data pipeline: raw text in, a store of tokenized Arrow shards with a manifest out."""
