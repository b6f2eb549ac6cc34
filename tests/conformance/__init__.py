"""What every trainer of replaced token detection must keep, checked through a small adapter: ours, and any other."""
