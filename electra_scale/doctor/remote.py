"""One host's part of ``electra-scale doctor --hostfile``: ``python -m electra_scale.doctor.remote``, over ssh.

It says when it is ready, is told its place in one line on stdin, and writes what it found in one line on stdout. When
stdin ends it does too: that is how it hears that whoever started it is gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict

READY = "electra-scale doctor is ready"
FOUND = "electra-scale doctor has found "


def main() -> int:
    """Code 0 for a part taken, 1 with a line on stderr for one that could not be."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Imported before anybody counts on this host: a broken torch is this host's own fault.
    from electra_scale.doctor.examine import Checks, examine
    from electra_scale.doctor.meeting import Apart
    from electra_scale.doctor.seat import Seat

    print(READY, flush=True)
    line = sys.stdin.readline()
    if not line:
        return 1
    plan = json.loads(line)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        findings, _ = examine(Seat(**plan["seat"]), Checks(**plan["checks"]))
    except Apart as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    if findings is not None:
        print(FOUND + json.dumps(asdict(findings)), flush=True)
    return 0


def _end_with_stdin() -> None:
    # Not by the file object: whoever reads it while the interpreter ends is a fatal error.
    while os.read(0, 1 << 16):
        pass
    os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # A thread that hangs must not keep the process.
    os._exit(code)
