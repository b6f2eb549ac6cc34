"""Output heads: what the generator's vocabulary scores are made of, and the discriminator's logit."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from electra_scale.model.initialisation import Dense


class GeneratorHead(nn.Module):
    """Hidden states (M,H) to features (M,E), which are scored against the word embeddings, and a bias per token.

    Features and scores are separate calls because the vocabulary is scored in chunks, at masked positions
    only.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab_size))


class BertGeneratorHead(GeneratorHead):
    """Dense H to E, GELU, LayerNorm."""

    def __init__(self, hidden: int, embedding: int, vocab_size: int, layer_norm_eps: float = 1e-12) -> None:
        super().__init__(vocab_size)
        self.dense = nn.Linear(hidden, embedding)
        self.norm = nn.LayerNorm(embedding, eps=layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """(M,H) hidden states to (M,E) features."""
        return self.norm(F.gelu(self.dense(hidden)))


class BertDiscriminatorHead(nn.Module):
    """Dense H to H, GELU, dense to one logit: positive where the token looks replaced."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(...,H) hidden states to (...) logits."""
        return self.output(F.gelu(self.dense(hidden))).squeeze(-1)


class ModernGeneratorHead(GeneratorHead):
    """Dense H to H, GELU, LayerNorm, and a projection from H to E where the two differ; biases of tokens only.

    ``scale`` is that of the first dense layer's start.
    """

    def __init__(self, hidden: int, embedding: int, vocab_size: int, layer_norm_eps: float, scale: float) -> None:
        super().__init__(vocab_size)
        self.dense = Dense(hidden, hidden, scale)
        self.norm = nn.LayerNorm(hidden, eps=layer_norm_eps, bias=False)
        self.project = Dense(hidden, embedding, fan_in=True) if hidden != embedding else None

    def forward(self, hidden: Tensor) -> Tensor:
        """(M,H) hidden states to (M,E) features."""
        features: Tensor = self.norm(F.gelu(self.dense(hidden)))
        return features if self.project is None else self.project(features)


class ModernDiscriminatorHead(nn.Module):
    """Dense H to H, GELU, LayerNorm, dense to one logit; a bias of the logit only. ``scale`` as in the generator's."""

    def __init__(self, hidden: int, layer_norm_eps: float, scale: float) -> None:
        super().__init__()
        self.dense = Dense(hidden, hidden, scale)
        self.norm = nn.LayerNorm(hidden, eps=layer_norm_eps, bias=False)
        self.output = nn.Linear(hidden, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(...,H) hidden states to (...) logits, positive where the token looks replaced."""
        return self.output(self.norm(F.gelu(self.dense(hidden)))).squeeze(-1)
