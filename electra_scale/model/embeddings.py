"""The embedding layer that generator and discriminator share, and position ids for packed rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from electra_scale.recipe.model import ModelConfig


def positions_from_segments(segment: Tensor) -> Tensor:
    """Position ids that restart at 0 wherever the segment changes along a row.

    Args:
        segment: (B,S) integers, which document of the row a position belongs to, -1 for padding.

    Returns:
        (B,S) int64 position ids. A run of padding counts from 0 too, so every id is below S.
    """
    index = torch.arange(segment.shape[1], device=segment.device).expand_as(segment)
    starts = torch.ones_like(segment, dtype=torch.bool)
    starts[:, 1:] = segment[:, 1:] != segment[:, :-1]
    latest_start = torch.where(starts, index, 0).cummax(dim=1).values
    return index - latest_start


class Embeddings(nn.Module):
    """Word + position + token-type embeddings, LayerNorm, dropout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.embedding)
        self.position = nn.Embedding(config.max_positions, config.embedding)
        self.token_type = nn.Embedding(config.token_types, config.embedding)
        self.norm = nn.LayerNorm(config.embedding, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

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
