"""Start to end of a run: signals, clocks and statuses go in, a stop in time and a word to people come out."""
