"""Converts a checkpoint and is killed at the N-th file that it writes.

``python -m tests.support.programs.killed_conversion CHECKPOINT N``
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from deepspeed.checkpoint import ds_to_universal

from electra_scale.train.engine import universal


def main(checkpoint: Path, number: int) -> None:
    save, left = ds_to_universal._save_checkpoint, [number]

    def killed(path: str, content: Any) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        save(path, content)

    ds_to_universal._save_checkpoint = killed
    universal.convert(checkpoint)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
