"""The recipe: YAML files and options go in, typed and checked settings of a run come out; needs no torch."""
