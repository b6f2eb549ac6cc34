"""The page to look inside: a checkpoint goes in, a small page on loopback comes out."""
