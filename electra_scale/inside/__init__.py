"""Looking inside: a checkpoint and a text go in, what each network does with each token comes out."""
