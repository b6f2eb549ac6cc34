"""The pass over the vocabulary: features go in, the generator's loss, exact draws and weights come out."""
