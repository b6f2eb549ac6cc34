"""The engine: losses go in, updated weights come out; the one folder that knows DeepSpeed."""
