"""HP_Dist: learn the sampling distribution itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from electra_scale.corruption.sampler import Draw, Masked, Sampler, Tile, Tilt
from electra_scale.corruption.samplers.head import SamplingHead
from electra_scale.corruption.samplers.head_scores import HeadScores
from electra_scale.corruption.tile_kernels import TileKernels
from electra_scale.corruption.vocabulary.tiles import exponential, put, ranges, score_tile, scores_of, tiling_of
from electra_scale.recipe.corruption import GeneratorSettings

_MEMORY = 0.99


class HardnessDistributionSampler(Sampler):
    """q = softmax(log p + r), with r from the head and p a constant; r starts at zero, hence q = p at step 0.

    Fitted to q* = p l / sum(p l) by KL(q* || q): the loss at a draw is -sg[w l] log q, whose expected gradient on r is
    E_p[l] (q - q*). The residual form is our choice, and so is to have no normaliser unless one is asked for.
    """

    learns = True

    def __init__(self, head: SamplingHead, objective: GeneratorSettings) -> None:
        super().__init__()
        self.head = head
        self.mixture = objective.mixture
        self.reaches_encoder = objective.head.reaches_encoder
        # How much of the mean of the steps before is kept; None: the loss is not divided by it.
        self.kept_share = {"none": None, "batch": 0.0, "moving": _MEMORY}[objective.head.normaliser]

    def observe(self, weighted_loss: float) -> None:
        kept = self.kept_share if self.kept_share is not None and self.mean_loss > 0 else 0.0
        self.mean_loss = kept * self.mean_loss + (1 - kept) * weighted_loss

    def tilt(self, masked: Masked) -> Tilt:
        return _Residual(HeadScores(self.head, masked))

    def loss(self, masked: Masked, drawn: Draw, discriminator_loss: Tensor) -> Tensor:
        head = self.head
        hidden = masked.hidden if self.reaches_encoder else masked.hidden.detach()
        features = head.features(hidden)
        own = features.new_zeros(len(features)) if head.own_token is None else head.own_token(features)[:, 0]
        log_q = _LogProbability.apply(
            features,
            head.keys(masked.word_embeddings),
            own,
            head.own_token is not None and self.allow_original,
            self.allow_original,
            masked,
            drawn,
        )
        factor = (drawn.weight * discriminator_loss).detach()
        # Of the global batch before this one: known on every rank, and the same for any split into micro-batches.
        if self.kept_share is not None and self.mean_loss > 0:
            factor = factor / self.mean_loss
        return -factor * log_q


class _Residual(Tilt):
    """exp(r(v))."""

    reads_scores = True

    def __init__(self, scores: HeadScores) -> None:
        self.scores = scores

    def tile(self, tile: Tile, out: Tensor) -> Tensor:
        assert tile.relative is not None
        self.scores.tile(tile, out)
        out.add_(tile.relative)
        # A tile of nothing but -inf must give zeros, not the NaN of -inf - -inf.
        top = out.amax(-1).clamp_(min=torch.finfo(out.dtype).min)
        exponential(out.sub_(top[:, None]))
        return tile.top.double() + top

    def fused_tile(self, tile: Tile, out: Tensor, strip: int, kernels: TileKernels) -> tuple[Tensor, Tensor]:
        parts = self.scores.parts(tile, out[:, : tile.exponentials.shape[1]])
        parts.added = tile.relative
        top, sums = kernels.exponentials(parts, out, strip)
        return tile.top.double() + top, sums

    def log_tilt(self, tokens: Tensor, scores: Tensor) -> Tensor:
        return self.scores.at(tokens).double()


class _LogProbability(torch.autograd.Function):
    """log q(drawn token), with the gradient of the normaliser over the vocabulary.

    dlog q(y)/dr(v) = 1[v = y] - q(v). The tiles of q are formed again in the backward pass, since the factor of each
    position, w l, is known only after the discriminator. Without originals q is 0 at them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        keys: Tensor,
        own: Tensor,
        has_own: bool,
        allow_original: bool,
        masked: Masked,
        drawn: Draw,
    ) -> Tensor:
        ctx.save_for_backward(features, keys, own)
        ctx.has_own, ctx.allow_original, ctx.masked, ctx.drawn = has_own, allow_original, masked, drawn
        chosen = torch.nn.functional.embedding(drawn.tokens, keys)
        residual = (features * chosen).sum(-1, dtype=drawn.log_p.dtype)
        if has_own:
            residual = torch.where(drawn.tokens == masked.original, own.to(residual.dtype), residual)
        return drawn.log_p + residual - drawn.log_shift.to(residual.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        features, keys, own = ctx.saved_tensors
        masked, drawn = ctx.masked, ctx.drawn
        slope = gradients[0]
        exact = slope.dtype
        log_normaliser = (drawn.log_normaliser + drawn.log_shift).to(exact)
        wide, table = features.to(exact), keys.to(exact)
        to_features, to_keys, to_own = torch.zeros_like(wide), torch.zeros_like(table), torch.zeros_like(slope)
        sloped = slope[:, None] * wide
        tiling = tiling_of(features.device.type)
        most = min(tiling.rows, max(1, tiling.memory // (exact.itemsize * min(len(keys), tiling.columns))))
        buffer = wide.new_empty(min(len(features), most) * min(len(keys), tiling.columns))
        for rows in ranges(len(features), most):
            for columns in ranges(len(keys), tiling.columns):
                shape = rows.stop - rows.start, columns.stop - columns.start
                q = buffer[: shape[0] * shape[1]].view(shape)
                score_tile(masked.features[rows], masked.word_embeddings[columns], masked.bias[columns], out=q)
                exponential(q.addmm_(wide[rows], table[columns].T).sub_(log_normaliser[rows, None]))
                if ctx.has_own or not ctx.allow_original:
                    put(q, columns, masked.original[rows], to_own[rows])
                to_features[rows].addmm_(q, table[columns])
                to_keys[columns].addmm_(q.T, sloped[rows], alpha=-1)
        to_features.mul_(-slope[:, None])
        kept = drawn.tokens == masked.original
        direct = torch.where(kept, 0.0, slope) if ctx.has_own else slope
        to_features += direct[:, None] * torch.nn.functional.embedding(drawn.tokens, table)
        to_keys.index_add_(0, drawn.tokens, direct[:, None] * wide)
        if ctx.has_own:
            score = scores_of(masked.features, masked.word_embeddings, masked.bias, masked.original)
            own_q = (score + own.to(exact) - log_normaliser).exp()
            to_own = slope * (kept.to(exact) - own_q)
        return to_features.to(features.dtype), to_keys.to(keys.dtype), to_own.to(own.dtype), None, None, None, None
