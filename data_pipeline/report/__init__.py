"""Looking at a store: a finished store goes in, figures, a page or a list of damage come out."""
