"""A training run in which one rank fails at one place.

``python -m tests.support.programs.failing_rank RANK PLACE KIND``, and then the run's own arguments.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

from data_pipeline.errors import OneRankError, UserError
from electra_scale import pretrain

PLACES = {
    "evaluation": "electra_scale.train.heldout.heldout:evaluate",
    "probe": "electra_scale.train.heldout.heldout:probe",
    "first weights": "electra_scale.train.loop:set_first_weights",
    "what rank 0 does for all": "electra_scale.train.checkpoint.resume:_tags",
    "checking a checkpoint": "electra_scale.train.checkpoint.checksums:problem",
    "loading": "electra_scale.train.engine.engine:Engine.load",
    "saving": "electra_scale.train.engine.engine:Engine.save",
    "finishing a checkpoint": "electra_scale.train.checkpoint.state:finish",
    "a row": "electra_scale.monitor.writer:RunWriter.metrics",
    "the update": "electra_scale.train.engine.engine:Engine.step",
    "the start": "electra_scale.train.loop:open_loader",
}
KINDS = {
    "fault": ZeroDivisionError("injected"),
    "user": UserError("injected, put it right"),
    "one rank": OneRankError("injected here, put it right"),
    "disk": OSError(28, "No space left on device"),
}


def break_down(place: str, kind: str) -> None:
    """Have what is at a place fail."""
    module, _, path = PLACES[place].partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)

    def fail(*arguments: Any, **options: Any) -> Any:
        if kind == "hang":
            time.sleep(600)
        raise KINDS[kind]

    setattr(owner, name, fail)


if __name__ == "__main__":
    rank, place, kind, *arguments = sys.argv[1:]
    if os.environ["RANK"] == rank:
        break_down(place, kind)
    sys.exit(pretrain.main(arguments))
