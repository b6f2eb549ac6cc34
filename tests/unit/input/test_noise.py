"""Uniform numbers from keys: uniform, independent of each other, and of who asks for them with whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from electra_scale.data.noise import generator_key, uniforms


def numbers(
    rows: int = 400, width: int = 250, seed: int = 0, epoch: int = 0, purpose: str = "mask"
) -> NDArray[np.float64]:
    return uniforms(seed, np.full(rows, epoch), np.arange(rows), width, purpose)


def correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    return float(np.corrcoef(left.ravel(), right.ravel())[0, 1])


def test_numbers_lie_in_the_half_open_unit_interval() -> None:
    drawn = numbers()
    assert drawn.dtype == np.float64
    assert drawn.shape == (400, 250)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert len(np.unique(drawn)) == drawn.size


@settings(max_examples=50, deadline=None)
@given(
    keys=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**40)), min_size=1, max_size=10),
    seed=st.integers(-5, 2**63),
    width=st.integers(1, 20),
)
def test_a_row_depends_on_its_own_key_only(keys: list[tuple[int, int]], seed: int, width: int) -> None:
    epochs, samples = (np.array(part, dtype=np.int64) for part in zip(*keys, strict=True))
    together = uniforms(seed, epochs, samples, width + 7, "replacement")
    for i in range(len(keys)):
        alone = uniforms(seed, epochs[i : i + 1], samples[i : i + 1], width, "replacement")
        np.testing.assert_array_equal(alone[0], together[i, :width])


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_uniform(seed: int) -> None:
    drawn = numbers(seed=seed)
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 1e-3
    counts = np.bincount((drawn.ravel() * 256).astype(int), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3
    # Each column and each row too: no position and no sample is favoured.
    for axis in (0, 1):
        means = drawn.mean(axis)
        scaled = (means - 0.5) * np.sqrt(12 * drawn.shape[axis])
        assert stats.kstest(scaled, "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (numbers(purpose="mask"), numbers(purpose="replacement")),
        (numbers(purpose="mask"), numbers(purpose="mask token")),
        (numbers(purpose="mask token"), numbers(purpose="replacement")),
        (numbers(seed=0), numbers(seed=1)),
        (numbers(epoch=0), numbers(epoch=1)),
        (numbers()[:-1], numbers()[1:]),
        (numbers()[:, :-1], numbers()[:, 1:]),
        (numbers()[:-1, 1:], numbers()[1:, :-1]),
        (numbers(epoch=0)[1:], numbers(epoch=1)[:-1]),
    ],
    ids=[
        "mask-replacement",
        "mask-token",
        "token-replacement",
        "seed",
        "epoch",
        "sample",
        "position",
        "diagonal",
        "both",
    ],
)
def test_what_differs_in_its_key_is_not_correlated(left: NDArray[np.float64], right: NDArray[np.float64]) -> None:
    assert abs(correlation(left, right)) < 4 / np.sqrt(left.size)
    assert (left != right).all()
    # Nor are small numbers together more often than they should: what masking and drawing would notice first.
    together = ((left < 0.15) & (right < 0.15)).sum()
    assert abs(together - 0.0225 * left.size) < 4 * np.sqrt(0.0225 * left.size)


def test_a_key_depends_on_every_part_and_on_their_order() -> None:
    keys = [
        generator_key(*parts)
        for parts in ((1, "a"), ("a", 1), (1, "b"), (2, "a"), (1, "a", ""), (11, "a"), (1, 1, "a"))
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**64 for key in keys)
    assert generator_key(1, "a") == generator_key(1, "a")
