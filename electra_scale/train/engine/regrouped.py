"""The optimizer's state of a checkpoint in other groups than it was saved in: by the names of the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_pipeline.errors import UserError

_WEIGHT, _COUNT = "fp32", "step"


def load_regrouped(
    path: Path,
    groups: Sequence[dict[str, Any]],
    state: dict[Any, Any],
    names: Sequence[Sequence[str]],
    parameters: Mapping[str, nn.Parameter],
) -> None:
    """Load float32 weights and moments from a checkpoint in the universal form at ``path``.

    Args:
        groups, state: of the optimizer that ZeRO has made: one flat tensor a group, this rank's part of it.
        names: of the parameters in each group.
        parameters: by name; DeepSpeed has noted in each where its part lies in the flat tensor.

    Raises UserError for a parameter whose state the checkpoint lacks.
    """
    for group, members in zip(groups, names, strict=True):
        flat = group["params"][0]
        for name in members:
            folder = path / "zero" / name
            if not folder.is_dir():
                raise UserError(
                    f"checkpoint {path.parent} has no optimizer state of {name}, which was not trained; leave it "
                    "frozen (optimizer.parts), or start a new run"
                )
            found = {file.stem: _read(file) for file in folder.glob("*.pt")}
            count = found.pop(_COUNT, None)
            if count is not None:
                (group if _COUNT in group else state[flat])[_COUNT] = count
            lies = parameters[name]._hp_mapping  # type: ignore[attr-defined]
            # None where another rank has all of it.
            if lies is None:
                continue
            source, target = lies.lp_fragment_address, lies.hp_fragment_address
            for key, value in found.items():
                if key != _WEIGHT and key not in state[flat]:
                    state[flat][key] = torch.zeros_like(flat)
                into = flat.data if key == _WEIGHT else state[flat][key]
                part = value.flatten().narrow(0, source.start, source.numel)
                into.narrow(0, target.start, target.numel).copy_(part)


def _read(file: Path) -> Any:
    content = torch.load(file, map_location="cpu", weights_only=True)
    return content["param"] if isinstance(content, dict) else content
