"""The study of samplers: recipes and seeds go in, a table with deviations and plots come out."""
