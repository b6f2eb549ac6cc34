"""Embedding layers: of word, position and token type, or of words alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from electra_scale.model.dropout import Dropout
from electra_scale.recipe.model import ModelConfig


class Embeddings(nn.Module):
    """Word + position + token-type embeddings, LayerNorm, dropout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.embedding)
        self.position = nn.Embedding(config.max_positions, config.embedding)
        self.token_type = nn.Embedding(config.architecture.token_types, config.embedding)
        self.norm = nn.LayerNorm(config.embedding, eps=config.architecture.layer_norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Embed tokens; the token type is 0 everywhere, as in pre-training.

        Args:
            ids: (B,S) int64 token ids.
            positions: (B,S) int64 position ids, below ``max_positions``.

        Returns:
            (B,S,E).
        """
        embedded = self.word(ids) + self.position(positions) + self.token_type.weight[0]
        return self.dropout(self.norm(embedded))


class WordEmbeddings(nn.Module):
    """The table that the networks share; each projects and normalises what it reads from it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.embedding)

    @torch.no_grad()
    def hold_constant(self, deviation: float) -> None:
        """Make the last column the same for all tokens: as large as the others together, if they have ``deviation``."""
        self.word.weight[:, -1] = deviation * self.word.embedding_dim**0.5

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """(B,S,E) of token ids (B,S); positions are not read, since layers turn queries and keys by them."""
        embedded: Tensor = self.word(ids)
        return embedded
