"""The finished store: token ids and counts go in, Arrow shards and one manifest come out."""
