"""Samplers: the generator's scores go in, the distribution that replacements are drawn from comes out."""
