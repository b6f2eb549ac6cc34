"""A rank of a run that also writes what each step was given: ``RECORD/PID.jsonl``, a line a micro-batch.

``python -m tests.support.programs.recorded_run arguments``, as ``electra_scale.pretrain`` is started.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from electra_scale import pretrain
from electra_scale.data.batch import Batch
from electra_scale.train.engine.engine import Engine
from electra_scale.train.global_step import GlobalSteps


def row_digests(batch: Batch) -> list[str]:
    """One digest a row, of everything that the row's loss depends on."""
    positions = batch.ids.shape[1]
    row_of = batch.masked // positions
    found = []
    for row in range(len(batch.ids)):
        of_row = row_of == row
        parts = (
            batch.ids[row],
            batch.segment[row],
            batch.masked[of_row] % positions,
            batch.shown_as_mask[of_row],
            batch.uniform[of_row],
        )
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part.contiguous().numpy().tobytes())
        found.append(digest.hexdigest())
    return found


def record(folder: Path) -> None:
    """Have every step of this process noted."""
    out = (folder / f"{os.getpid()}.jsonl").open("a", buffering=1)
    at: dict[str, int] = {}
    step_of_run, forward_backward = GlobalSteps.run, Engine.forward_backward

    def step(self: GlobalSteps, number: int, *rest: Any) -> Any:
        assert gc.isenabled(), "a start does without Python's collector of garbage, its steps must not"
        at.update(step=number, micro=0)
        return step_of_run(self, number, *rest)

    def forward(self: Engine, batch: Batch, *rest: Any) -> Any:
        line = {**at, "rank": self.world.rank, "size": self.world.size, "rows": row_digests(batch)}
        out.write(json.dumps(line) + "\n")
        at["micro"] += 1
        return forward_backward(self, batch, *rest)

    GlobalSteps.run = step
    Engine.forward_backward = forward


if __name__ == "__main__":
    folder = Path(os.environ["RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    record(folder)
    sys.exit(pretrain.main())
