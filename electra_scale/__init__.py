"""Pre-training of ELECTRA-style encoders: a store goes in, a run folder and Hugging Face checkpoints come out."""
