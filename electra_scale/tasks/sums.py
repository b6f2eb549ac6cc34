"""Statistics of a micro-batch as one vector, so that micro-batches add up and one collective carries them all.

Lists, which do not add up, are put together beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from electra_scale.corruption.corruption import Statistic, Sums


class Flattener:
    """Packs sums and maxima into one float64 vector and back; ``kept`` are the statistics without their values."""

    def __init__(self, statistics: Sequence[Statistic]) -> None:
        ordered = sorted((one for one in statistics if one.reduce != "list"), key=lambda one: one.name)
        self.names = [one.name for one in ordered]
        self.sizes = [one.value.numel() for one in ordered]
        self.maxima = [one.reduce == "max" for one in ordered]
        self.kept = [replace(one, value=one.value.new_zeros(0)) for one in statistics if one.reduce != "list"]

    def pack(self, statistics: Sequence[Statistic]) -> Tensor:
        """(N,) float64 on the statistics' device."""
        values = {one.name: one.value for one in statistics}
        return torch.cat([values[name].reshape(-1).double() for name in self.names])

    def maximum_mask(self) -> Tensor | None:
        """(N,) bool, on the host: entries that combine by maximum; None where there are none."""
        if not any(self.maxima):
            return None
        return torch.tensor([flag for flag, size in zip(self.maxima, self.sizes, strict=True) for _ in range(size)])

    def unpack(self, vector: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The values again by name, arrays of their sizes."""
        parts = np.split(vector, np.cumsum(self.sizes)[:-1])
        return dict(zip(self.names, parts, strict=True))


def combine(into: Tensor | None, vector: Tensor, maximum: Tensor | None) -> Tensor:
    """Add a packed vector to another; entries under ``maximum`` take the larger value."""
    if into is None:
        return vector
    if maximum is None:
        return into + vector
    return torch.where(maximum, torch.maximum(into, vector), into + vector)


Lists = Mapping[str, list[NDArray[np.floating]]]
"""Parts of the lists by name."""


def lists_of(statistics: Sequence[Statistic]) -> Lists:
    """The lists among the statistics of a micro-batch, on the host."""
    return {one.name: [one.value.detach().cpu().numpy()] for one in statistics if one.reduce == "list"}


def joined(parts: Sequence[Lists]) -> Lists:
    """Lists of several micro-batches or ranks, their parts still apart."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [one for part in parts for one in part.get(name, [])] for name in names}


def whole(lists: Lists) -> dict[str, NDArray[np.floating]]:
    """Each list in one piece."""
    return {name: np.concatenate(parts) for name, parts in lists.items()}


def logged_value(statistic: Statistic, sums: Sums) -> float:
    """A statistic divided by its global count."""
    assert statistic.per is not None
    return float(sums[statistic.name][0]) / max(float(sums[statistic.per][0]), 1.0)


def logged(kept: Sequence[Statistic], sums: Sums) -> dict[str, float]:
    """Statistics that are logged as they are, each divided by its global count, and ``loss/total``.

    ``sums`` holds the global values of the statistics and of the counts.
    """
    metrics: dict[str, float] = {}
    total, losses = 0.0, False
    for one in kept:
        if one.per is not None:
            metrics[one.name] = logged_value(one, sums)
        if one.weight is not None:
            total, losses = total + one.weight * metrics[one.name], True
    return metrics | ({"loss/total": total} if losses else {})
