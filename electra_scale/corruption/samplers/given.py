"""Draws in proportion to a hardness that is given, not predicted: for studies of what a sampler could do at best."""

from __future__ import annotations

import torch
from torch import Tensor

from electra_scale.corruption.sampler import Masked, Sampler, Tile, Tilt


class GivenHardnessSampler(Sampler):
    """q(v) is proportional to p(v) L(v): L is given for K tokens of each position, and one number for all others.

    Args:
        tokens: (M, K) different tokens.
        hardness: (M, K) their L, above 0.
        rest: (M,) that of the other tokens, above 0.
        mixture: draws come from (1 - mixture) q + mixture p.

    Positions that are drawn many times stand one after the other, all M of them, again and again.
    """

    def __init__(self, tokens: Tensor, hardness: Tensor, rest: Tensor, mixture: float) -> None:
        super().__init__()
        # A factor common to a position cancels; without it nothing can overflow.
        unit = torch.maximum(hardness.amax(-1), rest)
        self.tokens = tokens
        self.hardness = (hardness / unit[:, None]).float()
        self.rest = (rest / unit).float()
        self.mixture = mixture

    def tilt(self, masked: Masked) -> Tilt:
        copies = len(masked.original) // len(self.tokens)
        return _Given(self.tokens.repeat(copies, 1), self.hardness.repeat(copies, 1), self.rest.repeat(copies))


class _Given(Tilt):
    def __init__(self, tokens: Tensor, hardness: Tensor, rest: Tensor) -> None:
        self.tokens, self.hardness, self.rest = tokens, hardness, rest

    def tile(self, tile: Tile, out: Tensor) -> Tensor:
        out.copy_(self.rest[tile.rows, None].expand_as(out))
        place = self.tokens[tile.rows] - tile.columns.start
        row, number = torch.nonzero((place >= 0) & (place < out.shape[1]), as_tuple=True)
        out[row, place[row, number]] = self.hardness[tile.rows][row, number].to(out.dtype)
        out.mul_(tile.exponentials)
        return tile.top.double()

    def log_tilt(self, tokens: Tensor, scores: Tensor) -> Tensor:
        same = self.tokens == tokens[:, None]
        given = (self.hardness * same).sum(-1)
        return torch.where(same.any(-1), given, self.rest).double().log()
