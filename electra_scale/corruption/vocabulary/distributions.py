"""p and q over the whole vocabulary, for whoever wants to see them: training itself never keeps them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from electra_scale.corruption.sampler import Distributions, Masked, Sampler, Tile
from electra_scale.corruption.vocabulary.tiles import (
    Tiling,
    exponential,
    put,
    ranges,
    score_tile,
    scores_of,
    tiling_of,
)

_NUMBERS = 1 << 22
"""Most numbers of p in a block of positions: 32 MiB."""


def distributions(
    masked: Masked,
    sampler: Sampler,
    mixture: float | None = None,
    tiling: Tiling | None = None,
    numbers: int = _NUMBERS,
) -> Iterator[Distributions]:
    """What :func:`vocabulary_pass` draws from, in blocks of positions, in their order.

    Scores and tilts come from the same functions, in tiles of the same width; ``tiling`` and ``mixture`` as there.
    A block has at most ``numbers`` of p, or is one position.
    """
    mixed = sampler.mixture if mixture is None else mixture
    with torch.no_grad(), torch.autocast(masked.features.device.type, enabled=False):
        tilt = sampler.tilt(masked)
        tiling = tiling or tiling_of(masked.features.device.type)
        chunks = ranges(len(masked.word_embeddings), tiling.columns)
        for rows in ranges(len(masked.features), max(1, numbers // len(masked.word_embeddings))):
            features, original = masked.features[rows], masked.original[rows]
            plain, tilted = _Tiles(), _Tiles()
            for chunk in chunks:
                relative = score_tile(features, masked.word_embeddings[chunk], masked.bias[chunk])
                if not sampler.allow_original:
                    put(relative, chunk, original, relative.new_full((len(relative),), -torch.inf))
                # A tile of nothing but -inf must give zeros, not the NaN of -inf - -inf.
                top = relative.amax(-1).clamp_(min=torch.finfo(relative.dtype).min)
                relative.sub_(top[:, None])
                exponentials = exponential(relative.clone())
                plain.add(exponentials, top.double())
                if tilt is not None:
                    out = torch.empty_like(exponentials)
                    scale = tilt.tile(Tile(rows, chunk, top, exponentials, relative), out)
                    tilted.add(out, scale)
            drawable = plain.normalised()
            q = drawable if tilt is None else (1 - mixed) * tilted.normalised() + mixed * drawable
            if sampler.allow_original:
                yield Distributions(drawable, q)
                continue
            own = scores_of(features, masked.word_embeddings, masked.bias, original).double()
            kept = (own - plain.log_sum()).sigmoid()[:, None]
            yield Distributions((drawable * (1 - kept)).scatter_(1, original[:, None], kept), q)


class _Tiles:
    """Parts (R, C) of rows of non-negative numbers, each with the logarithm (R,) of its factor."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.scales: list[Tensor] = []

    def add(self, part: Tensor, scale: Tensor) -> None:
        self.parts.append(part.double())
        self.scales.append(scale)

    def log_sum(self) -> Tensor:
        """Logarithms (R,) of the rows' sums."""
        sums = torch.stack([part.sum(-1) for part in self.parts], -1)
        return torch.logsumexp(torch.stack(self.scales, -1) + sums.log(), -1)

    def normalised(self) -> Tensor:
        """The rows (R, V) in float64, each with the sum 1."""
        scale = torch.stack(self.scales, -1)
        factor = (scale - scale.amax(-1, keepdim=True)).exp()
        whole = torch.cat([part * factor[:, number, None] for number, part in enumerate(self.parts)], -1)
        return whole / whole.sum(-1, keepdim=True)
