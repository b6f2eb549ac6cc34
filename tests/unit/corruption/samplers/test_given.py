"""Draws in proportion to a given hardness, against sums over the whole vocabulary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from electra_scale.corruption.samplers.given import GivenHardnessSampler
from electra_scale.corruption.vocabulary.distributions import distributions
from electra_scale.corruption.vocabulary.tiles import ON_CPU
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from tests.unit.corruption.conftest import V, masked_rows, random


@pytest.mark.parametrize("mixture", [0.0, 0.1])
@pytest.mark.parametrize("columns", [7, V])
def test_draws_and_weights_are_those_of_the_given_hardness(columns: int, mixture: float) -> None:
    """Two positions, each of them 2,000 times."""
    copies = 2000
    scores = torch.randn(2, V, generator=random(0))
    tokens = torch.stack([torch.randperm(V, generator=random(seed))[:9] for seed in (1, 2)])
    hardness = 3 * torch.rand(2, 9, generator=random(3), dtype=torch.float64) + 0.01
    rest = torch.tensor([0.7, 2.0], dtype=torch.float64)
    sampler = GivenHardnessSampler(tokens, hardness, rest, mixture)
    uniform = ((torch.arange(copies, dtype=torch.float64) + 0.5) / copies).repeat_interleave(2)
    drawn = propose(sampler, masked_rows(scores.repeat(copies, 1), uniform), tiling=replace(ON_CPU, columns=columns))
    (found,) = distributions(masked_rows(scores, uniform[:2]), sampler, tiling=replace(ON_CPU, columns=columns))
    for row in range(2):
        believed = np.full(V, float(rest[row]))
        believed[tokens[row].numpy()] = hardness[row].numpy()
        p = torch.softmax(scores[row].double(), 0).numpy()
        q = (1 - mixture) * p * believed / (p @ believed) + mixture * p
        np.testing.assert_allclose(found.q[row], q, rtol=1e-5)
        here = drawn.tokens[row::2]
        np.testing.assert_allclose(here.bincount(minlength=V) / copies, q, atol=1.1 / copies)
        np.testing.assert_allclose(drawn.weight[row::2], (p / q)[here], rtol=1e-5)
