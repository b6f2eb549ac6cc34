"""Training with more options on one rank: ``python -m tests.support.programs.odd_rank RANK ARGUMENTS -- MORE``.

It stands for a host with another checkout, or with a store of its own.
"""

from __future__ import annotations

import os
import sys

from electra_scale import pretrain


def main(arguments: list[str]) -> int:
    odd, *rest = arguments
    end = rest.index("--")
    more = rest[end + 1 :] if os.environ["RANK"] == odd else []
    return pretrain.main([*rest[:end], *more])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
