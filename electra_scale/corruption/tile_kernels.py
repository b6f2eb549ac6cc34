"""What is asked of a device's own kernels: the chain of operations on each number of a tile, in one go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass
class ScoreParts:
    """Scores (R, C) of a tile that are not added up yet, for a kernel that does that on its way.

    ``product`` (R, C) + ``bias`` (C,) + ``offset`` (R,), in place of which each row has ``special`` (R,) at its token
    ``place`` (R,), which may lie outside the tile; then ``added`` (R, C). What is None is left out.
    """

    columns: int
    product: Tensor | None
    bias: Tensor | None = None
    offset: Tensor | None = None
    special: Tensor | None = None
    place: Tensor | None = None
    added: Tensor | None = None


class TileKernels(Protocol):
    """Kernels for tiles of float32, which may be any rows of a larger buffer. A product may be overwritten.

    ``out`` (R, W) is of whole strips of ``strip`` tokens; behind the C tokens in use it is set to 0.
    """

    def exponentials(
        self,
        parts: ScoreParts,
        out: Tensor,
        strip: int,
        relative: Tensor | None = None,
        spread: Tensor | None = None,
        in_tile: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """exp(score - top) of a tile to ``out``.

        Returns ``top`` (R,), each row's largest score, and the sums (R, W / strip) of the strips. Writes the scores
        relative to ``top`` to ``relative`` (R, C), the sums of exponential times relative score to ``spread`` (R,), and
        the score at each row's place to ``in_tile`` (R,) where that lies in the tile, whatever takes its place: of
        these, what is asked for.
        """
        ...

    def hardened(
        self, parts: ScoreParts, unit: Tensor, rms: bool, floor: float, exponentials: Tensor, out: Tensor, strip: int
    ) -> Tensor:
        """exponentials (R, C) times hardness(score) / hardness(unit) to ``out``; returns the sums of its strips.

        hardness(x) = softplus(x), or its root with ``rms``, plus ``floor``; ``unit`` (R,) are raw scores as well.
        """
        ...

    def softened(self, relative: Tensor, temperature: float, out: Tensor, strip: int) -> Tensor:
        """exp(relative / temperature) of a tile (R, C) to ``out``; returns the sums of its strips."""
        ...

    def summed(self, tile: Tensor, columns: int, strip: int) -> Tensor:
        """The sums of the strips of a tile (R, W) whose first ``columns`` are in use, as the other kernels sum them."""
        ...
