"""What is done with each number of a tile: by torch's operations, or by kernels of ours where a device has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from electra_scale.corruption.sampler import Tile, Tilt
from electra_scale.corruption.tile_kernels import ScoreParts, TileKernels
from electra_scale.corruption.vocabulary.device_kernels import kernels_of
from electra_scale.corruption.vocabulary.tiles import exponential, pick, put, score_product, score_tile


@dataclass
class Scores:
    """What a tile of scores is made of: features (R, E), word embeddings (C, E), bias (C,), and where it lies.

    ``original`` (R,) true tokens; with ``excluded`` they have the score -inf.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor
    rows: slice
    columns: slice
    original: Tensor
    excluded: bool


@dataclass
class Summed:
    """A tile of exponentials with the ``sums`` (R, W / strip) of its strips.

    ``in_tile`` (R,) the originals' scores where they lie in this tile or an earlier one; ``spread`` (R,) the sums of
    exponential times relative score, None where they are still to be formed.
    """

    tile: Tile
    sums: Tensor
    in_tile: Tensor | None = None
    spread: Tensor | None = None


class Sweeps(ABC):
    """From the scores of a tile to exponentials and tilted ones, with their sums over strips of ``strip`` tokens.

    ``whole`` (R, W) is a tile's buffer, of whole strips; behind the C tokens in use it is set to 0.
    """

    entropy_reads_scores: bool
    """Whether :meth:`spread` looks at the tile's relative scores."""

    def __init__(self, strip: int) -> None:
        self.strip = strip

    @abstractmethod
    def exponentials(self, scores: Scores, whole: Tensor, relative: Tensor | None, in_tile: Tensor | None) -> Summed:
        """Fill ``whole`` with exp(score - top) and ``relative`` (R, C), where given, with score - top.

        ``in_tile`` (R,), the originals' scores as far as they are known, is given where hits and entropy are asked for.
        """

    @abstractmethod
    def tilted(self, tilt: Tilt, tile: Tile, whole: Tensor) -> tuple[Tensor, Tensor]:
        """Fill ``whole`` as :meth:`Tilt.tile` does; logarithms (R,) of the factors taken out, and the strips' sums."""

    @abstractmethod
    def spread(self, summed: Summed) -> Tensor:
        """Sums (R,) of exponential times relative score; after this the tile's relative scores are used up."""


class TorchSweeps(Sweeps):
    """By torch's operations, on any device and in any precision."""

    entropy_reads_scores = True

    def exponentials(self, scores: Scores, whole: Tensor, relative: Tensor | None, in_tile: Tensor | None) -> Summed:
        columns = scores.columns
        tile = score_tile(scores.features, scores.weight, scores.bias, out=whole[:, : len(scores.bias)])
        if in_tile is not None:
            in_tile = pick(tile, columns, scores.original, in_tile)
        if scores.excluded:
            put(tile, columns, scores.original, tile.new_full(tile.shape[:1], -torch.inf))
        # A tile of nothing but -inf must give zeros, not the NaN of -inf - -inf.
        top = tile.amax(-1).clamp_(min=torch.finfo(tile.dtype).min)
        tile.sub_(top[:, None])
        if relative is not None:
            relative.copy_(tile)
        exponential(tile)
        return Summed(Tile(scores.rows, columns, top, tile, relative), self._strip_sums(whole, columns), in_tile)

    def tilted(self, tilt: Tilt, tile: Tile, whole: Tensor) -> tuple[Tensor, Tensor]:
        scale = tilt.tile(tile, whole[:, : tile.exponentials.shape[1]])
        return scale, self._strip_sums(whole, tile.columns)

    def spread(self, summed: Summed) -> Tensor:
        relative = summed.tile.relative
        assert relative is not None
        # Where the exponential is 0 its product with -inf must be 0 too.
        return relative.clamp_(min=-1e30).mul_(summed.tile.exponentials).sum(-1)

    def _strip_sums(self, whole: Tensor, columns: slice) -> Tensor:
        whole[:, columns.stop - columns.start :] = 0.0
        return whole.unflatten(-1, (-1, self.strip)).sum(-1)


class FusedSweeps(TorchSweeps):
    """By one kernel a tile, and one more for its tilt where the tilt has one; float32.

    A product is read twice and written once, where torch's operations go over it ten times.
    """

    entropy_reads_scores = False

    def __init__(self, strip: int, kernels: TileKernels) -> None:
        super().__init__(strip)
        self._kernels = kernels

    def exponentials(self, scores: Scores, whole: Tensor, relative: Tensor | None, in_tile: Tensor | None) -> Summed:
        size = len(scores.bias)
        parts = ScoreParts(
            size,
            score_product(scores.features, scores.weight, whole[:, :size]),
            bias=scores.bias,
            special=whole.new_full((len(whole),), -torch.inf) if scores.excluded else None,
            place=scores.original - scores.columns.start,
        )
        spread = None
        if in_tile is not None:
            in_tile, spread = in_tile.clone(), torch.empty_like(in_tile)
        top, sums = self._kernels.exponentials(parts, whole, self.strip, relative, spread, in_tile)
        tile = Tile(scores.rows, scores.columns, top, whole[:, :size], relative)
        return Summed(tile, sums, in_tile, spread)

    def tilted(self, tilt: Tilt, tile: Tile, whole: Tensor) -> tuple[Tensor, Tensor]:
        return tilt.fused_tile(tile, whole, self.strip, self._kernels) or super().tilted(tilt, tile, whole)

    def spread(self, summed: Summed) -> Tensor:
        assert summed.spread is not None
        return summed.spread

    def _strip_sums(self, whole: Tensor, columns: slice) -> Tensor:
        return self._kernels.summed(whole, columns.stop - columns.start, self.strip)


def sweeps_of(device: torch.device, dtype: torch.dtype, strip: int) -> Sweeps:
    """The device's kernels for tiles of float32, where it has any that work; torch's operations everywhere else."""
    kernels = kernels_of(device) if dtype == torch.float32 else None
    return TorchSweeps(strip) if kernels is None else FusedSweeps(strip, kernels)
