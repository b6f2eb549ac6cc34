"""Uniform numbers from keys: uniform, independent of each other, and of who asks for them with whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from electra_scale.data.noise import generator_key, hashes, permuted, uniforms, uniforms_at


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


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 8),
    width=st.integers(1, 20),
    seed=st.integers(-5, 2**63),
    chosen=st.lists(st.integers(0, 10**6), max_size=20),
)
def test_a_number_is_the_same_alone_and_with_all_others(rows: int, width: int, seed: int, chosen: list[int]) -> None:
    epochs, samples = np.arange(rows) // 3, np.arange(rows) * 10**9
    flat = np.array([place % (rows * width) for place in chosen], dtype=np.int64)
    everything = uniforms(seed, epochs, samples, width, "mask")
    np.testing.assert_array_equal(uniforms_at(seed, epochs, samples, width, "mask", flat), everything.reshape(-1)[flat])


def test_numbers_do_not_change_between_versions() -> None:
    """A run that is resumed with another version of the program or of numpy has the same noise."""
    drawn = uniforms(7, np.array([0, 3]), np.array([5, 2**40]), 2, "mask")
    assert drawn.tolist() == [[0.344425910368363, 0.9021783204696481], [0.16325355034671363, 0.20351418626971385]]
    sent = permuted(np.arange(10), np.full(10, 10), np.full(10, 99, dtype=np.uint64))
    assert sent.tolist() == [2, 1, 3, 5, 4, 9, 8, 0, 6, 7]


def test_hashes_depend_on_every_part_and_on_their_order() -> None:
    one, two = (part.reshape(-1) for part in np.meshgrid(np.arange(100), np.arange(100)))
    found = np.concatenate([hashes(1, one, two), hashes(2, one, two), hashes(1, one), hashes(1, one, two, one)])
    assert len(np.unique(found)) == 10_000 + 10_000 + 100 + 10_000


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5), seed=st.integers(0, 2**64 - 1))
def test_a_permutation_takes_each_index_once(sizes: list[int], seed: int) -> None:
    """Several sizes and keys in one call, as the windows of a batch are."""
    index = np.concatenate([np.arange(size) for size in sizes])
    size = np.repeat(sizes, sizes)
    keys = np.repeat((np.arange(len(sizes), dtype=np.uint64) + np.uint64(1)) * np.uint64(seed), sizes)
    sent = permuted(index, size, keys)
    for part in np.split(sent, np.cumsum(sizes)[:-1]):
        assert sorted(part.tolist()) == list(range(len(part)))


@pytest.mark.parametrize("size", [2, 3, 5, 8, 9, 60])
def test_a_permutation_has_no_favourite_places(size: int) -> None:
    """Over many keys, each index goes to each place, and each pair of neighbours to each pair, about equally often."""
    trials = 40 * size * size
    index = np.tile(np.arange(size), trials)
    keys = np.repeat(hashes(5, np.arange(trials)), size)
    sent = permuted(index, np.full(len(index), size), keys).reshape(trials, size)
    for place in range(size):
        assert stats.chisquare(np.bincount(sent[:, place], minlength=size)).pvalue > 1e-6
    pairs = np.bincount(sent[:, 0] * size + sent[:, 1], minlength=size * size).reshape(size, size)
    assert (np.diag(pairs) == 0).all()
    assert stats.chisquare(pairs[~np.eye(size, dtype=bool)]).pvalue > 1e-6


@pytest.mark.parametrize("size", [1000, 4096, 65536])
def test_a_large_permutation_looks_random(size: int) -> None:
    index = np.arange(size)
    sent = [permuted(index, np.full(size, size), np.full(size, key, dtype=np.uint64)) for key in range(4)]
    for part in sent:
        assert abs(float(stats.spearmanr(index, part).statistic)) < 5 / np.sqrt(size)
        assert abs(float(stats.spearmanr(part[:-1], part[1:]).statistic)) < 5 / np.sqrt(size)
        # Steps between neighbours fall into all lengths as they do for numbers drawn at random.
        steps = (np.diff(part) % size) * 16 // size
        assert stats.chisquare(np.bincount(steps, minlength=16)).pvalue > 1e-5
        # About one index stays where it is.
        assert (part == index).sum() < 12
    for one in range(4):
        for other in range(one):
            assert abs(float(stats.spearmanr(sent[one], sent[other]).statistic)) < 5 / np.sqrt(size)


def test_a_permutation_of_a_huge_range_is_one_to_one_and_inside() -> None:
    size = 10**15
    index = np.concatenate([np.arange(5000), size - 1 - np.arange(5000)])
    sent = permuted(index, np.full(len(index), size), np.full(len(index), 3, dtype=np.uint64))
    assert len(np.unique(sent)) == len(index)
    assert 0 <= sent.min() <= sent.max() < size


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
