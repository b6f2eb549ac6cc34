"""Commands around training: a run folder or a recipe goes in, an export, a probe or a job comes out."""
