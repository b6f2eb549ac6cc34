"""The networks: token ids go in, hidden states and logits come out; knows neither files nor DeepSpeed."""
