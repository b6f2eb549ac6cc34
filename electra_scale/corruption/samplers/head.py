"""The sampling head: a raw score for every token, from which hardness is made."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from electra_scale.model.initialisation import initialise


class SamplingHead(nn.Module):
    """A raw score per vocabulary token, from which a replacement's hardness is made (method.md, section 4).

    ``features = LayerNorm(GELU(dense(hidden)))`` of width K; ``score(v) = <features, key(v)> +
    level(features)``. With K != E the key is ``projected(e_v)``; with K == E it is the word embedding
    itself times a gain per dimension. The level is one scalar per position: it cancels in the sampling
    distribution and carries the part of the loss that all tokens share. The own-token score replaces
    ``score(x_t)`` where a sampler may use the label.

    The output is exactly 0 at the start, so that sampling begins as plain ELECTRA: the last factor on every
    path (``projected`` or ``gain``, ``level``, ``own_token``) is 0 while the features are not, so those
    factors have non-zero gradients in the first step and everything behind them from the second.

    Args:
        hidden: width H of the generator.
        embedding: width E of the word embeddings.
        width: K, the width in which scores are formed; 16 to E is sensible.
        own_token: make the own-token output.
        init_std: deviation of the initial dense weight.
        seed: seed of the initial weights.
        level: make the per-position level. Switch it off where only differences between tokens matter
            (HP_Dist): its gradient would be rounding noise.
        layer_norm_eps: epsilon of the LayerNorm.
    """

    def __init__(
        self,
        hidden: int,
        embedding: int,
        width: int,
        own_token: bool,
        init_std: float = 0.02,
        *,
        seed: int = 0,
        level: bool = True,
        layer_norm_eps: float = 1e-12,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.dense = nn.Linear(hidden, width)
            self.norm = nn.LayerNorm(width, eps=layer_norm_eps)
            self.projected = nn.Linear(embedding, width, bias=False) if width != embedding else None
            self.gain = nn.Parameter(torch.zeros(width)) if width == embedding else None
            self.level = nn.Linear(width, 1) if level else None
            self.own_token = nn.Linear(width, 1) if own_token else None
        self.initialise(init_std, seed)

    @torch.no_grad()
    def initialise(self, init_std: float, seed: int) -> None:
        """Draw the initial weights again; every output is 0 afterwards."""
        initialise(self, init_std, seed)
        for factor in (self.projected, self.level, self.own_token):
            if factor is not None:
                factor.weight.zero_()

    def features(self, hidden: Tensor) -> Tensor:
        """(M,H) generator hidden states to (M,K), in the head's own precision."""
        hidden = hidden.to(self.dense.weight.dtype)
        return self.norm(F.gelu(self.dense(hidden)))

    def keys(self, word_embeddings: Tensor) -> Tensor:
        """(V,E) word embeddings, or any rows of them, to (V,K); scores are ``features @ keys.T + offset``.

        For a pass over the vocabulary in chunks: compute features and offset once, keys per chunk. The head's loss does
        not reach the word embeddings.
        """
        word_embeddings = word_embeddings.detach().to(self.dense.weight.dtype)
        if self.gain is not None:
            return word_embeddings * self.gain
        assert self.projected is not None
        return self.projected(word_embeddings)

    def offset(self, features: Tensor) -> Tensor:
        """(M,K) features to the (M,) level added to every token's score; zeros without a level."""
        if self.level is None:
            return features.new_zeros(features.shape[:-1])
        return self.level(features).squeeze(-1)
