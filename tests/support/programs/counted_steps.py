"""Training that counts, in each step, what makes the host wait for a device, and what goes to other ranks.

``python -m tests.support.programs.counted_steps FILE ARGUMENTS``: ``FILE.RANK`` gets a line of JSON a step. On a CPU
nothing waits, so what would wait is counted where it is called: reading a number (``item``, ``float``, ``bool``),
``tolist`` and ``cpu``. On a CUDA device torch warns of each wait, and these warnings are counted as well.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from electra_scale import pretrain

_COLLECTIVES = ("all_reduce", "all_gather_into_tensor", "all_gather_object", "broadcast_object_list", "barrier")
_READS = ("tolist", "cpu")
_ON_THE_HOST = ("electra_scale/data/", "electra_scale/model/attention/layout.py")
"""Files whose tensors are on the host wherever the networks are."""

_HOST_CALLERS = (
    # Batches are on the host until they are copied.
    "corruption/corruption.py:count",
    "train/engine/world.py:sum_of",
    # It looks at the norm that the engine has read, as long as DeepSpeed does not compute one in its step.
    "deepspeed/runtime/utils.py:is_invalid_grad_norm",
    # torch keeps AdamW's counts of updates on the host, unless it is fused.
    "optim/replicated.py:step",
)


def caller() -> str:
    """The innermost caller outside torch and what stands in for a part of it; DeepSpeed is one."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not any(
            part in file
            for part in ("/torch/", "lean_deepspeed", "counted_steps", "/deepspeed/comm/", "<frozen", "functools")
        ):
            place = file.split("site-packages/")[-1].split("electra_scale/", 1)[-1]
            return f"{place}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "unknown"


class Counting(TorchDispatchMode):
    """Counts while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.collectives: Counter[str] = Counter()
        self.on = False

    def read(self, what: str) -> None:
        if self.on:
            frame: Any = sys._getframe(2)
            files = set()
            while frame is not None:
                files.add(frame.f_code.co_filename)
                frame = frame.f_back
            place = caller()
            if place not in _HOST_CALLERS and not any(one in file for one in _ON_THE_HOST for file in files):
                self.reads[f"{what} in {place}"] += 1

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            self.read("number")
        return function(*arguments, **(options or {}))


def main(arguments: list[str]) -> int:
    out, *rest = arguments
    counting = Counting()

    def counted(name: str, call: Callable[..., Any], note: Callable[[str], None]) -> Callable[..., Any]:
        def wrapper(*given: Any, **options: Any) -> Any:
            note(name)
            return call(*given, **options)

        return wrapper

    def collective(name: str) -> None:
        if counting.on:
            counting.collectives[f"{name} in {caller()}"] += 1

    computed: Counter[str] = Counter()

    def norm(_: str) -> None:
        computed[caller()] += 1

    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer as Wrapped

    Wrapped.scaled_global_norm = counted("norm", Wrapped.scaled_global_norm, norm)
    for name in _READS:
        setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name), counting.read))
    for name in _COLLECTIVES:
        setattr(dist, name, counted(name, getattr(dist, name), collective))
    from electra_scale.train.global_step import GlobalSteps

    plain, cuda = GlobalSteps.run, torch.cuda.is_available()

    def run(self: GlobalSteps, step: int, steps: Any, plan: Any, engine: Any, meter: Any, logged: bool) -> Any:
        counting.reads.clear()
        counting.collectives.clear()
        computed.clear()
        counting.on = True
        try:
            with counting, warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                if cuda:
                    torch.cuda.set_sync_debug_mode("warn")
                return plain(self, step, steps, plan, engine, meter, logged)
        finally:
            if cuda:
                torch.cuda.set_sync_debug_mode("default")
            counting.on = False
            found = {"step": step + 1, "phase": plan.name, "logged": logged}
            found["waits"] = sum("synchronizing" in str(one.message) for one in warned)
            found |= {"reads": dict(counting.reads), "collectives": dict(counting.collectives)}
            found["norms"] = dict(computed)
            with Path(f"{out}.{os.environ.get('RANK', '0')}").open("a") as file:
                file.write(json.dumps(found) + "\n")

    GlobalSteps.run = run  # type: ignore[method-assign]
    return pretrain.main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
