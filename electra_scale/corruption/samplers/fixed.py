"""Samplers without parameters: the generator's own distribution, as it is or softened."""

from __future__ import annotations

import torch
from torch import Tensor

from electra_scale.corruption.sampler import Masked, Sampler, Tile, Tilt
from electra_scale.corruption.tile_kernels import TileKernels
from electra_scale.corruption.vocabulary.tiles import exponential


class ElectraSampler(Sampler):
    """q = p (Clark et al. 2020)."""


class TemperatureSampler(Sampler):
    """q = softmax(scores / temperature): the control for whatever merely flattens the generator.

    With an ``end`` the temperature goes there from its start, linearly over the joint phase.
    """

    def __init__(self, temperature: float, end: float | None = None) -> None:
        super().__init__()
        self.temperature = temperature
        self.end = temperature if end is None else end

    def at(self, progress: float) -> Sampler:
        found = TemperatureSampler(self.temperature + (self.end - self.temperature) * progress)
        found.allow_original = self.allow_original
        return found

    def tilt(self, masked: Masked) -> Tilt:
        return _Softened(self.temperature)


class _Softened(Tilt):
    """exp(score / temperature) = exp(score) tilt."""

    reads_scores = True

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def tile(self, tile: Tile, out: Tensor) -> Tensor:
        assert tile.relative is not None
        torch.div(tile.relative, self.temperature, out=out)
        exponential(out)
        return tile.top.double() / self.temperature

    def fused_tile(self, tile: Tile, out: Tensor, strip: int, kernels: TileKernels) -> tuple[Tensor, Tensor]:
        assert tile.relative is not None
        return tile.top.double() / self.temperature, kernels.softened(tile.relative, self.temperature, out, strip)

    def log_tilt(self, tokens: Tensor, scores: Tensor) -> Tensor:
        return scores.double() / self.temperature - scores
