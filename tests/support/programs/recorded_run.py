"""Ranks of a run that also write what each step was given: ``RECORD/PID.jsonl``, a line a micro-batch.

``python -m tests.support.programs.recorded_run RANKS PORT arguments``. The ranks are forked from one process
that has imported everything, which takes most of a short run's time.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

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
        at.update(step=number, micro=0)
        return step_of_run(self, number, *rest)

    def forward(self: Engine, batch: Batch, *rest: Any) -> Any:
        line = {**at, "rank": self.world.rank, "size": self.world.size, "rows": row_digests(batch)}
        out.write(json.dumps(line) + "\n")
        at["micro"] += 1
        return forward_backward(self, batch, *rest)

    GlobalSteps.run = step
    Engine.forward_backward = forward


def _leave(arguments: list[str]) -> NoReturn:
    """Run one rank and end its process, whatever happens."""
    code = 1
    try:
        code = pretrain.main(arguments)
    except Exception:
        # A fork must never go on in its parent's code, so its error ends here, printed and with code 1.
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(ranks: int, port: str, arguments: list[str]) -> int:
    """Run the ranks; the first exit code that is not 0, with the others ended."""
    record_into = Path(os.environ["RECORD"])
    record_into.mkdir(parents=True, exist_ok=True)
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = set()
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
            record(record_into)
            _leave(arguments)
        running.add(child)
    while running:
        child, status = os.wait()
        running.discard(child)
        if status:
            for other in running:
                os.kill(other, signal.SIGKILL)
            return os.waitstatus_to_exitcode(status)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
