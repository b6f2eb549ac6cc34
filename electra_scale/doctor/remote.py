"""The process on one host of ``electra-scale doctor --hostfile``: ``python -m electra_scale.doctor.remote``, over ssh.

It prints a line when it is ready, reads its rank and its checks from one line of stdin, and the first rank prints its
report as one line. It ends when its stdin ends, which is how it learns that the command that started it is gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict

READY = "electra-scale doctor is ready"
REPORT = "electra-scale doctor reports "


def main() -> int:
    """Exit code 0 after an examination, 1 with a line on stderr if this host could not take part."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Imported before READY is printed, so that a broken torch is a problem of this host only.
    from electra_scale.doctor.examine import Checks, examine
    from electra_scale.doctor.rendezvous import Rank, Unreachable

    print(READY, flush=True)
    line = sys.stdin.readline()
    if not line:
        return 1
    given = json.loads(line)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        report, _ = examine(Rank(**given["rank"]), Checks(**given["checks"]))
    except Unreachable as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    if report is not None:
        print(REPORT + json.dumps(asdict(report)), flush=True)
    return 0


def _end_with_stdin() -> None:
    # Not through sys.stdin: a thread that reads it while the interpreter shuts down is a fatal error of Python.
    while os.read(0, 1 << 16):
        pass
    os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # A thread that hangs must not keep the process alive.
    os._exit(code)
