"""Commands around training: a run folder or a recipe goes in, a probe, a demo or a job comes out."""
