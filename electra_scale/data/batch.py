"""A batch: what a loader gives to a training step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Batch:
    """Rows and their noise.

    ``ids`` (B, S) tokens; ``segment`` (B, S) document of the row, -1 padding; ``masked`` (M,) flat indices into B x S
    of the positions that the generator predicts, ascending; ``shown_as_mask`` (M,) whether it sees [MASK] there or the
    token; ``uniform`` (M,) float64 numbers in [0, 1) for the replacement draw; ``extra`` further columns (B, ...) that
    a task needs, by name.
    """

    ids: Tensor
    segment: Tensor
    masked: Tensor
    shown_as_mask: Tensor
    uniform: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``; a copy to another device does not block the host."""
        if device.type == "cpu":
            return self
        ids, segment, masked, shown, uniform = (
            column.to(device, non_blocking=True)
            for column in (self.ids, self.segment, self.masked, self.shown_as_mask, self.uniform)
        )
        extra = {name: column.to(device, non_blocking=True) for name, column in self.extra.items()}
        return Batch(ids, segment, masked, shown, uniform, extra)

    def pinned(self) -> Batch:
        """The same batch in memory that a CUDA device copies from without the host."""
        ids, segment, masked, shown, uniform = (
            column.pin_memory() for column in (self.ids, self.segment, self.masked, self.shown_as_mask, self.uniform)
        )
        return Batch(ids, segment, masked, shown, uniform, {n: column.pin_memory() for n, column in self.extra.items()})

    def split(self, rows: int) -> list[Batch]:
        """The same rows in batches of ``rows`` (a divisor of B)."""
        width = self.ids.shape[1]
        starts = torch.arange(0, len(self.ids) + 1, rows)
        bounds = torch.searchsorted(self.masked, starts * width).tolist()
        return [
            Batch(
                self.ids[start : start + rows],
                self.segment[start : start + rows],
                self.masked[low:high] - start * width,
                self.shown_as_mask[low:high],
                self.uniform[low:high],
                {name: column[start : start + rows] for name, column in self.extra.items()},
            )
            for start, low, high in zip(starts.tolist(), bounds[:-1], bounds[1:], strict=False)
        ]
