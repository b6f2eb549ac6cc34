"""Scores of the sampling head at masked positions, a tile at a time, without gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from electra_scale.corruption.sampler import Masked, Tile
from electra_scale.corruption.samplers.head import SamplingHead
from electra_scale.corruption.tile_kernels import ScoreParts
from electra_scale.corruption.vocabulary.tiles import put


class HeadScores:
    """The head's score of every token, the original token's replaced where the head has an output for it.

    At least float32, as all of the head: the weight of a draw divides by the very number that it was drawn by.
    With a ``permutation`` (V,) of the vocabulary, token v is given the score of token permutation[v].
    """

    def __init__(self, head: SamplingHead, masked: Masked, permutation: Tensor | None = None) -> None:
        self.original = masked.original if permutation is None else permutation.argsort()[masked.original]
        features = head.features(masked.hidden)
        self.offset = head.offset(features)
        self.own = None if head.own_token is None else head.own_token(features)[:, 0]
        self.features = features
        keys = head.keys(masked.word_embeddings)
        self.keys = keys if permutation is None else keys[permutation]

    def tile(self, tile: Tile, out: Tensor) -> None:
        """Write the scores (R, C) of a tile to ``out``."""
        rows, columns = tile.rows, tile.columns
        torch.mm(self.features[rows], self.keys[columns].T, out=out).add_(self.offset[rows, None])
        if self.own is not None:
            put(out, columns, self.original[rows], self.own[rows])

    def parts(self, tile: Tile, out: Tensor) -> ScoreParts:
        """The same scores before they are added up; their product is written to ``out``."""
        rows, columns = tile.rows, tile.columns
        product = torch.mm(self.features[rows], self.keys[columns].T, out=out)
        parts = ScoreParts(out.shape[1], product, offset=self.offset[rows])
        if self.own is not None:
            parts.special, parts.place = self.own[rows], self.original[rows] - columns.start
        return parts

    def at(self, tokens: Tensor) -> Tensor:
        """The score (M,) of one token for each position."""
        keys = torch.nn.functional.embedding(tokens, self.keys)
        score = (self.features * keys).sum(-1) + self.offset
        return score if self.own is None else torch.where(tokens == self.original, self.own, score)
