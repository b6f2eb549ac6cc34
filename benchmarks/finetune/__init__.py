"""Fine-tuning of a checkpoint that is not ours: a task's rows go in, our scores beside those of others come out."""
