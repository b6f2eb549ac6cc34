"""p and q over the whole vocabulary are those that training draws from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from electra_scale.corruption.sampler import Distributions, Masked, Sampler
from electra_scale.corruption.vocabulary.distributions import distributions
from electra_scale.corruption.vocabulary.draws import choose
from electra_scale.corruption.vocabulary.tiles import ON_CPU
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from tests.unit.corruption.conftest import Case, V, varied

SAMPLERS = ("electra", "temperature", "hp_loss", "hp_dist", "two_scalars")


def whole(masked: Masked, sampler: Sampler, columns: int = V, numbers: int = 1 << 20) -> Distributions:
    blocks = list(distributions(masked, sampler, tiling=replace(ON_CPU, columns=columns), numbers=numbers))
    return Distributions(torch.cat([one.p for one in blocks]), torch.cat([one.q for one in blocks]))


def ones(count: int) -> Tensor:
    return torch.full((count,), 0.5, dtype=torch.float64)


@pytest.mark.parametrize("mixture", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_they_are_those_of_an_enumeration(name: str, mixture: float) -> None:
    case = Case(name, mixture=mixture)
    found = whole(case.masked(ones(3)), case.sampler)
    assert found.p is not None
    for row in range(3):
        assert np.allclose(found.p[row], case.p, rtol=2e-5)
        assert np.allclose(found.q[row], case.q, rtol=2e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_without_originals_q_has_none_and_p_is_the_generators_all_the_same(name: str) -> None:
    case = Case(name, mixture=0.3, allow_original=False)
    for columns in (7, V):
        found = whole(case.masked(ones(2)), case.sampler, columns)
        assert found.p is not None
        assert np.allclose(found.p, case.p, rtol=2e-5)
        assert np.allclose(found.q, case.q, rtol=2e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_tiles_and_blocks_give_the_same(name: str) -> None:
    sampler, masked = Case(name, mixture=0.1).sampler, varied(11)
    expected = whole(masked, sampler)
    for columns, numbers in ((1, V), (7, 3 * V), (V - 1, 1), (2 * V, 100 * V)):
        found = whole(masked, sampler, columns, numbers)
        assert torch.allclose(found.q, expected.q, rtol=1e-5)
        assert torch.allclose(found.q.sum(-1), torch.ones(11, dtype=torch.float64))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_draw_in_training_is_one_from_q_and_its_weight_is_p_over_q(name: str) -> None:
    sampler, masked = Case(name, mixture=0.1).sampler, varied(500)
    drawn, found = propose(sampler, masked), whole(masked, sampler)
    assert found.p is not None
    tokens, _ = choose(found.q, masked.uniform)
    assert torch.equal(tokens, drawn.tokens)
    at_drawn = [values.gather(1, drawn.tokens[:, None])[:, 0] for values in (found.p, found.q)]
    assert torch.allclose(drawn.weight.double(), at_drawn[0] / at_drawn[1], rtol=1e-4)


def test_where_the_sampler_changes_nothing_q_is_p_itself() -> None:
    for block in distributions(varied(4), Case("electra").sampler):
        assert block.q is block.p


def test_a_tile_of_tokens_that_cannot_be_drawn_has_probability_zero() -> None:
    masked = varied(3)
    impossible = masked.bias.clone()
    impossible[10:20] = -torch.inf
    for name in ("electra", "temperature", "hp_loss"):
        found = whole(replace(masked, bias=impossible), Case(name).sampler, columns=10)
        assert bool((found.q[:, 10:20] == 0).all())
        assert torch.allclose(found.q.sum(-1), torch.ones(3, dtype=torch.float64))
