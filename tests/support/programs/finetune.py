"""``electra-scale`` as a module that tests fork from a process which has imported everything."""

from __future__ import annotations

import sys

from electra_scale.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
