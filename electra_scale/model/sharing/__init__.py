"""Sharing of embeddings: token ids go in, what each network reads comes out; one file a way to share."""
