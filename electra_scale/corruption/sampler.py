"""What every replacement sampler does: tilt the generator's distribution, and perhaps learn from the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from electra_scale.corruption.tile_kernels import TileKernels


@dataclass
class Masked:
    """What the generator gives at the M masked positions.

    ``features`` (M, E), ``word_embeddings`` (V, E) and ``bias`` (V,) give its scores, features @ embeddings.T + bias,
    which are never formed all at once. ``hidden`` (M, H) its hidden states, ``original`` (M,) the true tokens,
    ``uniform`` (M,) float64 numbers in [0, 1), one for each draw.
    """

    features: Tensor
    word_embeddings: Tensor
    bias: Tensor
    hidden: Tensor
    original: Tensor
    uniform: Tensor


@dataclass
class Draw:
    """Drawn replacements.

    ``tokens`` (M,); ``weight`` (M,) importance weights p/q of the distribution really drawn from, constants for the
    gradient; ``hardness`` (M,) the sampler's relative estimate of how hard the drawn token is, q/p, 1 where it has
    none; ``log_p`` (M,) the generator's log probability of the drawn token; ``log_normaliser`` (M,) float64 log of
    sum_v exp(score(v)); ``log_shift`` (M,) float64 log of sum_v p(v) tilt(v). Where the sampler does not allow
    originals, sums are over the other tokens, and p and q are distributions over them, in all of these.
    """

    tokens: Tensor
    weight: Tensor
    hardness: Tensor
    log_p: Tensor
    log_normaliser: Tensor
    log_shift: Tensor


@dataclass
class Distributions:
    """What replacements are drawn from at R positions, over the whole vocabulary.

    ``q`` (R, V) float64 the distribution that is really drawn from; ``p`` (R, V) that of the generator, originals
    included, which is the same object where the two do not differ, and None where there is no generator.
    """

    p: Tensor | None
    q: Tensor


@dataclass
class Tile:
    """A part of the M x V scores: positions ``rows``, tokens ``columns``.

    ``top`` (R,) the largest score of each row; ``exponentials`` (R, C) exp(score - top); ``relative`` (R, C)
    score - top, only where the tilt reads scores.
    """

    rows: slice
    columns: slice
    top: Tensor
    exponentials: Tensor
    relative: Tensor | None


class Tilt(ABC):
    """What a sampler does to the generator's distribution at M positions: q(v) is proportional to p(v) tilt(v)."""

    reads_scores: bool = False
    """Whether :meth:`tile` looks at the scores themselves, not only at their exponentials."""

    @abstractmethod
    def tile(self, tile: Tile, out: Tensor) -> Tensor:
        """Write exp(score) tilt (R, C), scaled so that it can't overflow, to ``out``.

        Returns the logarithm (R,) of the factor that was taken out of each row.
        """

    def fused_tile(self, tile: Tile, out: Tensor, strip: int, kernels: TileKernels) -> tuple[Tensor, Tensor] | None:
        """The same by one of a device's kernels, which also sums the strips: a tilt may do without.

        ``out`` (R, W) is of whole strips of ``strip`` tokens; behind the tile's columns it is set to 0. Returns what
        :meth:`tile` does and the sums (R, W / strip); None, by default, where there is no such kernel.
        """
        return None

    @abstractmethod
    def log_tilt(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """Logarithm (M,) of the tilt at one token for each position, given the generator's ``scores`` (M,) of it."""


class Sampler(nn.Module):
    """Base of the samplers. What they remember from step to step is their parameters and ``mean_loss``.

    Its parameters stay in float32 when the networks around it are cast to 16 bits: draws and weights are exact for
    whatever the head says, but what it learns is differences too small for bf16.
    """

    learns: bool = False
    """Whether :meth:`loss` gives a loss."""

    mixture: float = 0.0
    """Draws come from (1 - mixture) q + mixture p, unless a draw is asked for another mixture."""

    allow_original: bool = True
    """Whether the original token may be drawn; if not, p and q are renormalised without it before they are mixed."""

    mean_loss: float = 0.0
    """What a sampler keeps of the values that :meth:`observe` got; part of a checkpoint."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Sampler:
        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if not moved.is_floating_point() or moved.itemsize >= 4:
                return moved
            return tensor.to(moved.device, torch.float32)

        applied: Sampler = super()._apply(at_least_float32, recurse)
        return applied

    def tilt(self, masked: Masked) -> Tilt | None:
        """How q differs from p at these positions, without gradient; None where it does not."""
        return None

    def at(self, progress: float) -> Sampler:
        """The sampler as it draws once a share ``progress`` of the joint phase is over; most do not change."""
        return self

    def observe(self, weighted_loss: float) -> None:
        """Take note of the mean of w l over the masked positions of a global batch, after its update."""

    def memory(self) -> dict[str, float]:
        """What it keeps from step to step besides its parameters; part of a checkpoint."""
        return {"mean_loss": self.mean_loss}

    def load_memory(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`memory` gave."""
        self.mean_loss = state["mean_loss"]

    def loss(self, masked: Masked, drawn: Draw, discriminator_loss: Tensor) -> Tensor:
        """The sampler's own loss per position (M,), given the discriminator's loss (M,) at the drawn tokens.

        Raises NotImplementedError for a sampler that does not learn.
        """
        raise NotImplementedError(f"{type(self).__name__} does not learn")


def mix(relative: Tensor, mixture: float) -> Tensor:
    """q/p of the defensive mixture (1 - mixture) q + mixture p, from q/p; never below ``mixture``."""
    return relative if mixture == 0 else relative * (1 - mixture) + mixture
