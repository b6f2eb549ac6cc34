"""Output heads: the generator's vocabulary scores, the discriminator's logit, the sampler's hardness."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GeneratorHead(nn.Module):
    """Dense H to E, GELU, LayerNorm, then scores against the word embeddings plus a bias per token.

    Features and scores are separate calls because the vocabulary is scored in chunks, at masked positions
    only.
    """

    def __init__(self, hidden: int, embedding: int, vocab_size: int, layer_norm_eps: float = 1e-12) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, embedding)
        self.norm = nn.LayerNorm(embedding, eps=layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """(M,H) hidden states to (M,E) features."""
        return self.norm(F.gelu(self.dense(hidden)))


class DiscriminatorHead(nn.Module):
    """Dense H to H, GELU, dense to one logit: positive where the token looks replaced."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(...,H) hidden states to (...) logits."""
        return self.output(F.gelu(self.dense(hidden))).squeeze(-1)
