"""Evaluation without fine-tuning: models and text or tasks go in, scores with their errors come out."""
