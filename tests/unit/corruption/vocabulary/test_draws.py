"""One uniform number gives one exact draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from electra_scale.corruption.vocabulary.draws import choose
from tests.unit.corruption.conftest import random

NEAR_ONE = 1 - 2.0**-53
SIZES = (1, 2, 255, 256, 1000)


def draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    return choose(weights.double(), uniform)[0]


def inverted(weights: np.ndarray, uniform: float) -> int:
    """The plain inverse of the distribution function."""
    cumulative = np.cumsum(weights.astype(np.float64))
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


@pytest.mark.parametrize("vocabulary", SIZES)
def test_draw_inverts_the_distribution_function(vocabulary: int) -> None:
    # Integers, so that sums are exact in any order and every answer is unique.
    weights = np.random.default_rng(vocabulary).integers(0, 4, vocabulary).astype(np.float32)
    weights[0] += 1
    uniform = (np.arange(500) + 0.5) / 500
    drawn = draw(torch.from_numpy(weights).expand(500, -1), torch.from_numpy(uniform))
    assert drawn.dtype == torch.int64
    assert drawn.tolist() == [inverted(weights, number) for number in uniform]


@pytest.mark.parametrize("vocabulary", SIZES)
def test_ends_of_the_unit_interval_give_the_first_and_last_positive_index(vocabulary: int) -> None:
    weights = torch.rand(vocabulary, generator=random(vocabulary))
    weights[: vocabulary // 3] = 0
    weights[vocabulary - vocabulary // 3 :] = 0
    positive = weights.nonzero()[:, 0]
    drawn = draw(weights.expand(2, -1), torch.tensor([0.0, NEAR_ONE], dtype=torch.float64))
    assert drawn.tolist() == [int(positive[0]), int(positive[-1])]


@settings(max_examples=150, deadline=None)
@given(
    vocabulary=st.integers(1, 700),
    seed=st.integers(0, 2**32 - 1),
    zeros=st.floats(0, 1),
    scale=st.floats(0, 30),
    extra=st.lists(st.floats(0, NEAR_ONE), min_size=1, max_size=20),
)
def test_an_index_of_weight_zero_is_never_drawn(
    vocabulary: int, seed: int, zeros: float, scale: float, extra: list[float]
) -> None:
    generator = np.random.default_rng(seed)
    weights = np.exp(-generator.random(vocabulary) * scale).astype(np.float32)
    weights[generator.random(vocabulary) < zeros] = 0
    weights[generator.integers(vocabulary)] = 1
    # The edges of the cells are where rounding could step over.
    edges = np.cumsum(weights.astype(np.float64)) / weights.astype(np.float64).sum()
    edges = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1)])
    uniform = np.concatenate([[0.0, NEAR_ONE], extra, np.clip(edges, 0, NEAR_ONE)])
    drawn = draw(torch.from_numpy(weights).expand(len(uniform), -1), torch.from_numpy(uniform)).numpy()
    assert drawn.min() >= 0
    assert drawn.max() < vocabulary
    assert (weights[drawn] > 0).all()


def test_a_token_rarer_than_single_precision_is_drawn_where_it_should_be() -> None:
    weights = torch.ones(512)
    weights[300] = 1e-10
    cumulative = weights.double().cumsum(0)
    edges = cumulative[299:301] / cumulative[-1]
    inside = edges.mean()
    assert edges[0] < inside < edges[1]
    assert int(draw(weights[None], inside[None])) == 300


def test_rows_do_not_influence_each_other() -> None:
    weights = torch.rand(40, 300, generator=random(0)) ** 4
    uniform = torch.rand(40, generator=random(1), dtype=torch.float64)
    alone = torch.cat([draw(weights[i : i + 1], uniform[i : i + 1]) for i in range(40)])
    assert torch.equal(draw(weights, uniform), alone)


def test_weights_need_not_be_normalised() -> None:
    weights = torch.rand(60, 300, generator=random(0)) ** 4
    uniform = torch.rand(60, generator=random(1), dtype=torch.float64)
    factors = 2.0 ** torch.arange(-30, 30)[:, None]
    assert torch.equal(draw(weights * factors, uniform), draw(weights, uniform))


def test_frequencies_pass_a_chi_square_test() -> None:
    weights = torch.rand(300, generator=random(3)) ** 3
    uniform = torch.rand(200_000, generator=random(4), dtype=torch.float64)
    drawn = torch.cat([draw(weights.expand(len(part), -1), part) for part in uniform.split(20_000)])
    counts = torch.bincount(drawn, minlength=300).numpy()
    expected = (weights.double() / weights.double().sum()).numpy() * len(uniform)
    often = expected > 5
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    assert stats.chisquare(observed, wanted).pvalue > 1e-4


def test_weights_that_are_not_numbers_still_give_an_index_of_the_vocabulary() -> None:
    """The step then ends in the message about a loss that is not finite, not in an index error on the device."""
    weights = torch.rand(4, 300, generator=random(0))
    weights[0] = torch.nan
    weights[1, 290] = torch.nan
    weights[2, 0] = torch.inf
    weights[3] = 0
    for uniform in (0.0, 0.5, NEAR_ONE):
        drawn = draw(weights, torch.full((4,), uniform, dtype=torch.float64))
        assert 0 <= int(drawn.min()) <= int(drawn.max()) < 300
