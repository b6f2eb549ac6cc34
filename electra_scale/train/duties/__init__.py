"""What a run does around its steps: a finished step goes in, evaluations, rows, checkpoints and alarms come out."""
