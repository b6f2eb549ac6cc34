"""Planning: a recipe and a cluster go in, memory, traffic, time and cost come out, by arithmetic."""
