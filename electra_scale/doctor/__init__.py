"""``electra-scale doctor``: whether the nodes of a run can train together, before they try.

``command`` starts ``examine`` in this process or, by ``over_ssh``, in one on each host of a hostfile. The first rank
gathers what each node finds out about itself (``facts``, ``storage``) and what they measure together (``clocks``,
``links``), over notes that ranks leave on it (``meeting``); ``verdict`` and ``table`` say what that means.
"""
