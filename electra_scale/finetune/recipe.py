"""The fine-tuning recipe: what a user chose, completed by the task and by the width of the encoder."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from data_pipeline.errors import UserError
from electra_scale.finetune.tasks.task import Task

BETAS, EPSILON, CLIP = (0.9, 0.999), 1e-6, 1.0
"""Of AdamW, and the greatest norm of a gradient, as in ELECTRA's code."""

HEAD_DROPOUT = 0.1

_RATES = ((512, 3e-4, 0.8), (1024, 1e-4, 0.8), (10**9, 5e-5, 0.9))
"""Below a width: learning rate and layer-wise decay, those of ELECTRA small, base and large (Clark et al. 2020)."""


@dataclass(frozen=True)
class Choices:
    """What a user may set; None: as the task and the encoder have it."""

    epochs: float | None = None
    length: int | None = None
    rate: float | None = None
    decay: float | None = None
    batch: int = 32
    most_per_device: int = 32
    weight_decay: float = 0.01
    warmup: float = 0.1
    dropout: float | None = None
    patience: int | None = None
    checkpoint_every: int = 500
    bf16: bool = False

    def __post_init__(self) -> None:
        least = {"epochs": 0.0, "rate": 0.0, "decay": 0.0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and not bound < value < math.inf:
                raise UserError(f"--{name} is {value}; it must be above {bound:g} and finite")
        whole = {"length": 8, "batch": 1, "most_per_device": 1, "patience": 1, "checkpoint_every": 1}
        for name, lowest in whole.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least {lowest}")
        if self.decay is not None and self.decay > 1:
            raise UserError(f"--decay is {self.decay}; it must be at most 1, where all layers have one rate")
        for name in ("warmup", "dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UserError(f"--{name} is {value}; it must be at least 0 and below 1")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"--weight-decay is {self.weight_decay}; it must be at least 0 and finite")


@dataclass(frozen=True)
class FineTuningRecipe:
    """How one seed is trained. ``dropout`` None: the encoder's own, and 0.1 in the head."""

    epochs: float
    length: int
    rate: float
    decay: float
    batch: int
    weight_decay: float
    warmup: float
    dropout: float | None
    patience: int | None

    def settings(self) -> dict[str, Any]:
        """As results name them."""
        return {**asdict(self), "clip": CLIP}


def recipe_of(choices: Choices, task: Task, width: int, room: int | None) -> tuple[FineTuningRecipe, list[str]]:
    """The recipe for an encoder of a width with room for so many positions (None: no bound), and sentences about what
    it changes of what was asked for."""
    _, rate, decay = next(entry for entry in _RATES if width < entry[0])
    length, notes = choices.length or task.length, []
    if room is not None and length > room:
        notes.append(f"length {length} becomes {room}, all positions that the model has")
        length = room
    recipe = FineTuningRecipe(
        epochs=choices.epochs or task.epochs,
        length=length,
        rate=choices.rate or task.rate or rate,
        decay=choices.decay or decay,
        batch=choices.batch,
        weight_decay=choices.weight_decay,
        warmup=choices.warmup,
        dropout=choices.dropout,
        patience=choices.patience,
    )
    return recipe, notes


def micro_batches(batch: int, ranks: int, most: int) -> tuple[int, int]:
    """Rows of a rank at once, and how many times it accumulates; raises UserError if ranks cannot share the batch."""
    if batch % ranks:
        raise UserError(
            f"--batch {batch} cannot be shared by {ranks} ranks; give {ranks * max(1, round(batch / ranks))}"
        )
    share = batch // ranks
    times = next(number for number in range(1, share + 1) if share % number == 0 and share // number <= most)
    return share // times, times
