"""``electra-scale doctor``: a set of nodes goes in, findings about whether they can train together come out.

``command`` starts ``examine`` in this process, or by ``over_ssh`` in a process on each host of a hostfile (``remote``).
Each node examines itself (``facts``, ``storage``), and all nodes measure what connects them (``links``). The ranks meet
by ``rendezvous``, the first one gathers the results, ``findings`` decides what is wrong, and ``table`` prints it.
"""
