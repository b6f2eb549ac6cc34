"""Replacements that were drawn ahead, in a checkpoint: a run that stops between two saves resumes with them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from electra_scale.corruption.ahead import Ahead
from electra_scale.data.batch import Batch
from electra_scale.train.checkpoint.full_disk import writing
from electra_scale.train.engine.world import World

_FILE = "drawn_ahead.pt"


def save_draws(folder: Path, draws: list[Ahead], expected: bool, world: World) -> None:
    """Write what all ranks have drawn for the next step into a checkpoint's folder; every rank must call it.

    The file holds the global batch, (M,) over all ranks in order, so that any number of ranks can read it. Where a
    rank has no draws, although they are ``expected``, its data has failed and nothing is written.
    """
    missing = world.sum(torch.tensor([float(expected and not draws)], device=world.device))
    if not expected or float(missing) > 0:
        return
    parts = {field.name: torch.cat([getattr(draw, field.name) for draw in draws]) for field in fields(Ahead)}
    first, total = _place(len(parts["tokens"]), world)
    whole = {}
    for name, part in parts.items():
        # A sum with zeros is a gather, exact in float64 for token ids and for float32 values.
        table = torch.zeros(total, dtype=torch.float64, device=world.device)
        table[first : first + len(part)] = part.double()
        whole[name] = world.sum(table).to(part.dtype).cpu()
    if world.main:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(whole, folder / _FILE)


def load_draws(folder: Path, batches: list[Batch], world: World) -> list[Ahead]:
    """This rank's draws for its micro-batches; empty if the checkpoint has none. Every rank must call it.

    A rank without ``batches`` gets none either.
    """
    path = folder / _FILE
    if not path.is_file():
        return []
    sizes = [len(batch.masked) for batch in batches]
    first, _ = _place(sum(sizes), world)
    whole: dict[str, Tensor] = torch.load(path, map_location=world.device, weights_only=True)
    mine = {name: value[first : first + sum(sizes)].split(sizes) for name, value in whole.items()} if sizes else {}
    return [Ahead(**{name: parts[number] for name, parts in mine.items()}) for number in range(len(sizes))]


def _place(count: int, world: World) -> tuple[int, int]:
    """Where this rank's ``count`` positions begin among those of all ranks, and how many there are in all."""
    counts = torch.zeros(world.size, dtype=torch.float64, device=world.device)
    counts[world.rank] = count
    counts = world.sum(counts)
    return int(counts[: world.rank].sum()), int(counts.sum())
