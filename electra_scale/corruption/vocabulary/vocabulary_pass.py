"""One pass over the vocabulary: the generator's loss with its gradients, an exact draw from q, and its weight.

The M x V scores are formed in tiles. A block of positions keeps its tiles of exp(score) until its normalisers are
known; then its draws are made and its gradients added up from what is there, so that nothing is computed twice and the
memory is that of one block, whatever M is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from electra_scale.corruption.sampler import Draw, Masked, Sampler, Tilt, mix
from electra_scale.corruption.vocabulary.draws import choose
from electra_scale.corruption.vocabulary.generator_loss import focal_loss, focal_slope
from electra_scale.corruption.vocabulary.sweeps import Scores, sweeps_of
from electra_scale.corruption.vocabulary.tiles import Tiling, ranges, scores_of, tiling_of

_FEWEST_ROWS = 32

STRIP = 128
"""Tokens of a strip. Tiles are summed by strips: a draw picks a strip, then looks at no more tokens than it has."""


@dataclass
class VocabularyPass:
    """What one pass gives.

    ``loss`` () the generator's loss, summed over positions, with its gradient; ``log_probability`` (M,) log p of the
    original tokens; ``hits`` (M,) bool, no token is likelier than the original, and ``entropy`` (M,) of p in nats, both
    None if not asked for; ``drawn`` the replacements, or None without a sampler.
    """

    loss: Tensor
    log_probability: Tensor
    hits: Tensor | None
    entropy: Tensor | None
    drawn: Draw | None


def vocabulary_pass(
    masked: Masked,
    sampler: Sampler | None = None,
    focal_gamma: float = 0.0,
    entropy: bool = False,
    tiling: Tiling | None = None,
    mixture: float | None = None,
) -> VocabularyPass:
    """Generator loss, draw and weight at M positions, in the device's own tiles unless ``tiling`` gives others.

    The loss is sum_t -(1 - p(x_t))^gamma log p(x_t); its gradient reaches features, word embeddings and bias. The draw
    inverts the distribution function of q with one uniform number a position. Scores and sums of a tile are in float32
    whatever the run's precision (float64 for float64 input), normalisers in float64; scores may be anything from -inf
    to 1e4 and beyond, as long as each position has one that is finite (without originals, one of another token). With
    ``entropy``, hits and entropy too.

    Where the sampler does not allow originals, p and q of the draw are both renormalised without them before they are
    mixed. The original's score then stands beside the tiles and not in them, so that no sum of the others is what is
    left of a difference, and none underflows however likely the original is.
    """
    with torch.autocast(masked.features.device.type, enabled=False):
        tiling = tiling or tiling_of(masked.features.device.type)
        return _pass(masked, sampler, focal_gamma, entropy, tiling, mixture)


def _pass(
    masked: Masked,
    sampler: Sampler | None,
    focal_gamma: float,
    entropy: bool,
    tiling: Tiling,
    mixture: float | None,
) -> VocabularyPass:
    tilt = None
    mixed = 0.0
    if sampler is not None:
        mixed = sampler.mixture if mixture is None else mixture
        with torch.no_grad():
            tilt = sampler.tilt(masked)
    parameters = (masked.features, masked.word_embeddings, masked.bias)
    settings = _Settings(
        original=masked.original,
        uniform=None if sampler is None else masked.uniform,
        tilt=tilt,
        mixture=mixed,
        without_original=sampler is not None and not sampler.allow_original,
        focal_gamma=focal_gamma,
        entropy=entropy,
        gradients=torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters),
        tiling=tiling,
    )
    loss, log_probability, hits, entropies, tokens, log_drawable, log_tilted = _Pass.apply(*parameters, settings)
    drawn = None
    if sampler is not None:
        drawn = _weighted(masked, tokens, tilt, log_drawable, log_tilted - log_drawable, mixed)
    if not entropy:
        return VocabularyPass(loss, log_probability, None, None, drawn)
    return VocabularyPass(loss, log_probability, hits, entropies, drawn)


def propose(sampler: Sampler, masked: Masked, tiling: Tiling | None = None, mixture: float | None = None) -> Draw:
    """Draw a replacement for each masked position from q, with the weight p/q. No gradient."""
    with torch.no_grad():
        drawn = vocabulary_pass(masked, sampler, tiling=tiling, mixture=mixture).drawn
    assert drawn is not None
    return drawn


@torch.no_grad()
def _weighted(
    masked: Masked, tokens: Tensor, tilt: Tilt | None, log_drawable: Tensor, log_shift: Tensor, mixture: float
) -> Draw:
    scores = scores_of(masked.features, masked.word_embeddings, masked.bias, tokens)
    log_p = (scores - log_drawable).to(scores.dtype)
    if tilt is None:
        ones = torch.ones_like(scores)
        return Draw(tokens, ones, ones, log_p, log_drawable, log_shift)
    # Closed form: q/p = tilt / sum_v p(v) tilt(v). No ratio of two small probabilities is formed.
    ratio = mix((tilt.log_tilt(tokens, scores) - log_shift).exp(), mixture)
    return Draw(tokens, (1 / ratio).to(scores.dtype), ratio.to(scores.dtype), log_p, log_drawable, log_shift)


def block_shape(positions: int, vocabulary: int, bytes_per_column: int, tiling: Tiling) -> tuple[int, int]:
    """Rows of a block of positions, and columns of a tile: as many rows as the tiling's memory has room for.

    ``bytes_per_column``: what a block keeps for one row and one column of a tile, over all of its tiles.
    """
    strip = math.gcd(tiling.columns, STRIP)
    width = -(-min(tiling.columns, vocabulary) // strip) * strip
    most = max(_FEWEST_ROWS, min(tiling.rows, tiling.memory // (width * bytes_per_column)))
    # Blocks of about equal size.
    blocks = max(1, -(-positions // most))
    return max(1, -(-positions // blocks)), width


@dataclass
class _Settings:
    original: Tensor
    uniform: Tensor | None
    tilt: Tilt | None
    mixture: float
    without_original: bool
    focal_gamma: float
    entropy: bool
    gradients: bool
    tiling: Tiling


class _Pass(torch.autograd.Function):
    """Gradients are added up in the forward pass, while the tiles are there; backward only scales them."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, settings: _Settings) -> tuple[Tensor, ...]:
        work = _Work(features, weight, bias, settings)
        results = work.run()
        ctx.gradients = work.gradients
        ctx.dtypes = features.dtype, weight.dtype, bias.dtype
        ctx.mark_non_differentiable(*results[1:])
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        # Each gradient is made once and used once, so scaling may happen in place.
        scaled = [
            gradient.mul_(gradients[0]).to(dtype) for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        del ctx.gradients
        return (*scaled, None)


class _Work:
    """The buffers of a pass, and what is done with a block of positions."""

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor, settings: _Settings) -> None:
        self.features, self.weight, self.bias, self.settings = features, weight, bias, settings
        self.exact = torch.promote_types(features.dtype, torch.float32)
        # Of the gradients' matrix products; under autocast features may be of 16 bits and the table is not.
        self.products = features.dtype if features.dtype == weight.dtype else self.exact
        self.chunks = ranges(len(weight), settings.tiling.columns)
        keeps = settings.gradients or settings.uniform is not None
        kinds = 2 if settings.tilt is not None else 1
        self.strip = math.gcd(settings.tiling.columns, STRIP)
        self.sweeps = sweeps_of(features.device, self.exact, self.strip)
        tiles = len(self.chunks) if keeps else 1
        self.rows, width = block_shape(len(features), len(weight), tiles * kinds * self.exact.itemsize, settings.tiling)
        self.buffers = [features.new_empty((tiles, self.rows, width), dtype=self.exact) for _ in range(kinds)]
        reads = settings.entropy and self.sweeps.entropy_reads_scores
        reads |= settings.tilt is not None and settings.tilt.reads_scores
        self.relative = torch.empty_like(self.buffers[0][0]) if reads else None
        self.gradients: tuple[Tensor, ...] = ()
        if settings.gradients:
            self.gradients = tuple(torch.zeros_like(part, dtype=self.exact) for part in (features, weight, bias))

    def run(self) -> tuple[Tensor, ...]:
        blocks = [self._block(rows) for rows in ranges(len(self.features), self.rows)] or [self._block(slice(0, 0))]
        columns = [torch.cat(column) for column in zip(*blocks, strict=True)]
        return (focal_loss(columns[0], self.settings.focal_gamma).sum(), *columns)

    def _block(self, rows: slice) -> tuple[Tensor, ...]:
        settings, features = self.settings, self.features[rows]
        own = scores_of(features, self.weight, self.bias, settings.original[rows])
        kept, tilted = self.buffers[0][:, : len(features)], self.buffers[-1][:, : len(features)]
        # The original's score where hits are asked for: from the tile, as those that it is compared with.
        in_tile = own
        tops, sums, spreads, scales, tilted_sums = [], [], [], [], []
        for number, columns in enumerate(self.chunks):
            scores = Scores(
                features=features,
                weight=self.weight[columns],
                bias=self.bias[columns],
                rows=rows,
                columns=columns,
                original=settings.original[rows],
                excluded=settings.without_original,
            )
            relative = None
            if self.relative is not None:
                relative = self.relative[: len(features), : columns.stop - columns.start]
            summed = self.sweeps.exponentials(
                scores, kept[number if len(kept) > 1 else 0], relative, in_tile if settings.entropy else None
            )
            tops.append(summed.tile.top)
            sums.append(summed.sums)
            if settings.tilt is not None:
                scale, strip_sums = self.sweeps.tilted(settings.tilt, summed.tile, tilted[number])
                scales.append(scale)
                tilted_sums.append(strip_sums)
            if settings.entropy:
                assert summed.in_tile is not None
                in_tile = summed.in_tile
                spreads.append(self.sweeps.spread(summed))
        top = torch.stack(tops, -1).double()
        strip_sums = torch.stack(sums, 1)
        sum_ = strip_sums.sum(-1, dtype=torch.float64)
        highest = top.amax(-1, keepdim=True)
        # Of what can be drawn, and of all tokens.
        log_drawable = log_normaliser = (sum_ * (top - highest).exp()).sum(-1).log() + highest[:, 0]
        drawable_scale = scale = (top - log_drawable[:, None]).exp()
        if settings.without_original:
            log_normaliser = torch.logaddexp(log_drawable, own.double())
            scale = (top - log_normaliser[:, None]).exp()
        log_probability = (own - log_normaliser).clamp(max=0.0).to(self.exact)
        hits, entropy = in_tile >= highest[:, 0], log_probability
        if settings.entropy:
            spread = torch.stack(spreads, -1).double() + sum_ * (top - log_normaliser[:, None])
            entropy = -(spread * scale).sum(-1).to(self.exact)
            if settings.without_original:
                entropy = entropy - log_probability.exp() * log_probability
        tokens, log_tilted = settings.original[rows], log_drawable
        if settings.uniform is not None:
            parts = [(kept, strip_sums, drawable_scale)]
            if settings.tilt is not None:
                tilted_strip_sums, tilted_top = torch.stack(tilted_sums, 1), torch.stack(scales, -1)
                log_tilted = torch.logsumexp(tilted_strip_sums.sum(-1, dtype=torch.float64).log() + tilted_top, -1)
                tilted_scale = (tilted_top - log_tilted[:, None]).exp()
                parts = [(tilted, tilted_strip_sums, (1 - settings.mixture) * tilted_scale)]
                if settings.mixture:
                    parts.append((kept, strip_sums, settings.mixture * drawable_scale))
            tokens = self._draw(parts, settings.uniform[rows])
        if settings.gradients:
            self._add_gradients(rows, kept, scale, log_probability)
        return log_probability, hits, entropy, tokens, log_drawable, log_tilted

    def _draw(self, parts: list[tuple[Tensor, Tensor, Tensor]], uniform: Tensor) -> Tensor:
        """Invert the distribution function of a sum of parts: over all strips, then inside the chosen one.

        Each part is its tiles (N, R, C), the sums of their strips (R, N, C / strip), and the factors (R, N) that make
        them probabilities.
        """
        over_strips = torch.stack([sums * scale[:, :, None] for _, sums, scale in parts]).sum(0)
        strip, inside = choose(over_strips.flatten(1), uniform.double())
        tile, strip_of_tile = strip // over_strips.shape[-1], strip % over_strips.shape[-1]
        row = torch.arange(len(strip), device=strip.device)
        in_strip = torch.stack(
            [
                tiles.unflatten(-1, (-1, self.strip))[tile, row, strip_of_tile] * scale[row, tile, None]
                for tiles, _, scale in parts
            ]
        ).sum(0)
        index, _ = choose(in_strip, inside)
        # Only scores that are not numbers reach the columns behind the vocabulary, and their loss says so.
        return (tile * self.settings.tiling.columns + strip_of_tile * self.strip + index).clamp(
            max=len(self.weight) - 1
        )

    def _add_gradients(self, rows: slice, kept: Tensor, scale: Tensor, log_probability: Tensor) -> None:
        """dloss/dscore(v) = slope (1[v = x] - p(v)); ``kept`` (N, R, C) times ``scale`` (R, N) is p.

        Of an x that stands beside the tiles ``kept`` has 0.
        """
        features, original = self.features[rows], self.settings.original[rows]
        slope = focal_slope(log_probability, self.settings.focal_gamma)
        factor = (-slope[:, None] * scale).to(self.exact)
        to_features, to_weight, to_bias = self.gradients[0][rows], self.gradients[1], self.gradients[2]
        for number, columns in enumerate(self.chunks):
            tile = kept[number, :, : columns.stop - columns.start].to(self.products)
            column = factor[:, number]
            to_features.addcmul_((tile @ self.weight[columns].to(self.products)).to(self.exact), column[:, None])
            scaled = (features * column[:, None]).to(self.products)
            if tile.dtype == self.exact:
                to_weight[columns].addmm_(tile.T, scaled)
            else:
                to_weight[columns].add_(tile.T @ scaled)
            to_bias[columns].add_(tile.T @ column.to(tile.dtype))
        if self.settings.without_original:
            slope = slope * -torch.expm1(log_probability)
        to_features.addcmul_(torch.nn.functional.embedding(original, self.weight).to(self.exact), slope[:, None])
        to_weight.index_add_(0, original, features.to(self.exact) * slope[:, None])
        to_bias.index_add_(0, original, slope)
