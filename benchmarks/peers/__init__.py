"""Build and loader beside their peers: text goes in, throughput ratios come out."""
