"""The cluster: variables and files of a launcher go in, hosts and ranks come out."""
