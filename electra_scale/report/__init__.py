"""Run folders go in; one page with plots, tables and words comes out, which opens without a network."""
