"""Start to end of a run: signals, clocks and statuses go in, a stop in time and reports to people come out."""
