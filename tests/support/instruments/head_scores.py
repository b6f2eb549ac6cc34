"""Scores of a sampling head written out over the vocabulary, for tests that compare the pass in tiles with them."""

from __future__ import annotations

import torch

from electra_scale.corruption.samplers.head import SamplingHead


def scores(head: SamplingHead, hidden: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Scores (M, V) of all tokens."""
    features = head.features(hidden)
    return features @ head.keys(words).T + head.offset(features)[:, None]


def scores_at(head: SamplingHead, hidden: torch.Tensor, words: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The score (M,) of one token for each position."""
    features = head.features(hidden)
    return (features * head.keys(words[tokens])).sum(-1) + head.offset(features)


def own(head: SamplingHead, hidden: torch.Tensor) -> torch.Tensor:
    """The score (M,) of each position's original token."""
    assert head.own_token is not None
    return head.own_token(head.features(hidden)).squeeze(-1)
