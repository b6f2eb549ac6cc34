"""Tasks: a name and the rows of a user go in, checked examples come out."""
