"""Fine-tuning: an encoder and a task's rows go in, scores over seeds and the best model come out."""
