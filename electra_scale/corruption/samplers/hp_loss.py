"""HP_Loss: predict the discriminator's loss for every token and draw in proportion to it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from electra_scale.corruption.sampler import Draw, Masked, Sampler, Tile, Tilt
from electra_scale.corruption.samplers.head import SamplingHead
from electra_scale.corruption.samplers.head_scores import HeadScores
from electra_scale.corruption.tile_kernels import ScoreParts, TileKernels
from electra_scale.corruption.vocabulary.tiles import exponential, put
from electra_scale.recipe.corruption import GeneratorSettings

_HIGHEST = 88.0
"""Scores above count as this one when a token is drawn and weighted, or exp would overflow float32."""


class _Scores(Protocol):
    """Raw scores that hardness is made from, without gradient."""

    original: Tensor

    def tile(self, tile: Tile, out: Tensor) -> None: ...

    def parts(self, tile: Tile, out: Tensor) -> ScoreParts: ...

    def at(self, tokens: Tensor) -> Tensor: ...


class PredictedLossSampler(Sampler):
    """q(v) = p(v) L(v) / Z with Z = sum_v p(v) L(v), so that w = p/q = Z / L at the drawn token.

    L is an estimate of the discriminator's loss (Hao et al. 2021 for the idea; the form is ours): with ``form = mean``
    softplus(score) fitted to l, with ``form = rms`` its root fitted to l^2, since under noise the variance of w l is
    least for q proportional to p sqrt(E[l^2]). With ``target = gradient`` l is replaced by 1 - exp(-l), the size of its
    gradient on the logit. Scores start at zero, hence q = p at step 0.
    """

    learns = True

    def __init__(self, objective: GeneratorSettings) -> None:
        super().__init__()
        self.mixture = objective.mixture
        self.floor = objective.head.floor
        self.rms = objective.head.form == "rms"
        self.of_gradient = objective.head.target == "gradient"

    def fit(self, score: Tensor, discriminator_loss: Tensor) -> Tensor:
        """Squared error (M,) of the hardness that raw scores (M,) predict for losses (M,)."""
        target = discriminator_loss.detach()
        if self.of_gradient:
            target = -torch.expm1(-target)
        if self.rms:
            return (softplus(score) - target**2) ** 2
        return (softplus(score) + self.floor - target) ** 2


class HardnessLossSampler(PredictedLossSampler):
    """The estimate comes from the sampling head: one for each token, and perhaps one for the original token."""

    def __init__(self, head: SamplingHead, objective: GeneratorSettings, permutation: Tensor | None = None) -> None:
        super().__init__(objective)
        self.head = head
        self.reaches_encoder = objective.head.reaches_encoder
        self.permutation: Tensor | None
        self.register_buffer("permutation", permutation, persistent=False)

    def tilt(self, masked: Masked) -> Tilt:
        return _Hardness(HeadScores(self.head, masked, self.permutation), self.rms, self.floor)

    def loss(self, masked: Masked, drawn: Draw, discriminator_loss: Tensor) -> Tensor:
        """Squared error at the drawn tokens; only their rows of the vocabulary are touched, O(M E)."""
        head = self.head
        # Once for both of its outputs.
        features = head.features(masked.hidden if self.reaches_encoder else masked.hidden.detach())
        keys = head.keys(torch.nn.functional.embedding(drawn.tokens, masked.word_embeddings))
        score = (features * keys).sum(-1) + head.offset(features)
        if head.own_token is not None:
            own = head.own_token(features)[:, 0]
            score = torch.where(drawn.tokens == masked.original, own, score)
        return self.fit(score, discriminator_loss)


class TwoScalarSampler(PredictedLossSampler):
    """One number for the original token and one for all others: the control that knows the label and nothing else."""

    def __init__(self, objective: GeneratorSettings) -> None:
        super().__init__(objective)
        self.original_score = nn.Parameter(torch.zeros(1))
        self.other_score = nn.Parameter(torch.zeros(1))

    def tilt(self, masked: Masked) -> Tilt:
        scores = _TwoScores(masked.original, self.original_score, self.other_score)
        return _Hardness(scores, self.rms, self.floor)

    def loss(self, masked: Masked, drawn: Draw, discriminator_loss: Tensor) -> Tensor:
        score = torch.where(drawn.tokens == masked.original, self.original_score, self.other_score)
        return self.fit(score, discriminator_loss)


class _TwoScores:
    def __init__(self, original: Tensor, own: Tensor, other: Tensor) -> None:
        self.original, self.own, self.other = original, own.expand(len(original)), other

    def tile(self, tile: Tile, out: Tensor) -> None:
        out.copy_(self.other.expand_as(out))
        put(out, tile.columns, self.original[tile.rows], self.own[tile.rows].to(out.dtype))

    def parts(self, tile: Tile, out: Tensor) -> ScoreParts:
        place = self.original[tile.rows] - tile.columns.start
        own = self.own[tile.rows]
        return ScoreParts(out.shape[1], None, offset=self.other.expand_as(own), special=own, place=place)

    def at(self, tokens: Tensor) -> Tensor:
        return torch.where(tokens == self.original, self.own, self.other)


class _Hardness(Tilt):
    """L(v), in units of L at the original token: where L is constant the tilt is then 1 and not about 1."""

    def __init__(self, scores: _Scores, rms: bool, floor: float) -> None:
        self.scores, self.rms, self.floor = scores, rms, floor
        # Written down before it is overwritten: a kernel makes the unit of it by its own arithmetic.
        at_original = scores.at(scores.original)
        self.unit_score = at_original.clone()
        self.unit = self._hardness(at_original)

    def _hardness(self, score: Tensor) -> Tensor:
        """L > 0 from raw scores, any shape; overwrites them."""
        # softplus in place, which torch's own function is not; at half the cost, too.
        positive = exponential(score.clamp_(max=_HIGHEST)).log1p_()
        return (positive.sqrt_() if self.rms else positive).add_(self.floor)

    def tile(self, tile: Tile, out: Tensor) -> Tensor:
        self.scores.tile(tile, out)
        hardness = self._hardness(out).div_(self.unit[tile.rows, None])
        torch.mul(tile.exponentials, hardness, out=out)
        return tile.top.double()

    def fused_tile(self, tile: Tile, out: Tensor, strip: int, kernels: TileKernels) -> tuple[Tensor, Tensor]:
        parts = self.scores.parts(tile, out[:, : tile.exponentials.shape[1]])
        unit = self.unit_score[tile.rows]
        sums = kernels.hardened(parts, unit, self.rms, self.floor, tile.exponentials, out, strip)
        return tile.top.double(), sums

    def log_tilt(self, tokens: Tensor, scores: Tensor) -> Tensor:
        return (self._hardness(self.scores.at(tokens)) / self.unit).double().log()
