"""The figures of redrawn replacements are right for numbers whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from electra_scale.monitor.draw_variance import (
    Redrawn,
    bucket_figures,
    draw_figures,
    frequency_buckets,
    probe_metrics,
    source_figures,
    within_rank_correlation,
)
from tests.support.fixtures.metric_tags import PROBE_TAGS


def redrawn(seed: int, samples: int = 40, positions: int = 5, draws: int = 8, scale: float = 0.5) -> Redrawn:
    """Losses of mean 1 at every position, those from q spread by ``scale`` of those from p; weights are 1."""
    random = np.random.default_rng(seed)
    total = samples * positions
    # Positions differ in spread, as real ones do.
    spread = random.uniform(0.5, 2.0, (total, 1))
    shape = (total, draws)
    return Redrawn(
        sample=np.repeat(np.arange(samples), positions),
        original=random.integers(0, 10, total),
        loss_p=1 + spread * random.normal(size=shape),
        loss_q=1 + scale * spread * random.normal(size=shape),
        kept_p=random.random(shape) < 0.5,
        kept_q=random.random(shape) < 0.25,
        weight=np.ones(shape),
        hardness=random.random(shape),
        gradient_p=random.uniform(1, 3, (samples, 2)),
        gradient_q=random.uniform(1, 3, (samples, 2)) * scale**2,
        tokens=samples * 20,
    )


def test_errors_are_as_large_as_the_figures_really_scatter() -> None:
    found = [draw_figures(redrawn(seed)) for seed in range(200)]
    for figure, error, truth in (
        ("draw_ratio", "draw_ratio_error", 0.25),
        ("gradient_ratio", "gradient_ratio_error", 0.25),
        ("mean_difference", "mean_difference_error", 0.0),
    ):
        values = np.array([one[figure] for one in found])
        claimed = np.array([one[error] for one in found]).mean()
        assert values.std() == pytest.approx(claimed, rel=0.2)
        assert abs(values.mean() - truth) < 4 * claimed / len(found) ** 0.5 + 0.002


def test_undefined_figures_are_nan_and_no_others() -> None:
    one = redrawn(0, samples=1)
    assert math.isnan(draw_figures(one)["draw_ratio_error"])
    one.loss_p[:] = 0.7
    figures = draw_figures(one)
    assert math.isnan(figures["draw_ratio"])
    assert figures["draw_p"] == 0.0
    assert all(math.isfinite(value) for value in draw_figures(redrawn(0)).values())


def test_the_effective_sample_size_counts_draws() -> None:
    found = redrawn(0)
    found.weight[:] = 0.0
    found.weight[:, :2] = 3.0
    figures = draw_figures(found)
    assert figures["ess"] == pytest.approx(2 / 8)
    assert figures["weight_max"] == 3.0


def test_the_logged_values_are_those_figures() -> None:
    metrics, figures = probe_metrics(redrawn(0)), draw_figures(redrawn(0))
    assert set(metrics) == set(PROBE_TAGS)
    assert metrics["disc_loss_variance/draw_ratio"] == figures["draw_ratio"]
    assert metrics["disc_gradient_variance/draw_q"] == figures["gradient_q"]
    both = figures["gradient_q head"] + figures["gradient_q last layer"]
    assert figures["gradient_q"] == pytest.approx(both)


def test_the_rank_correlation_within_does_not_see_what_positions_share() -> None:
    random = np.random.default_rng(0)
    level = random.normal(size=(300, 1)) * 10
    left, right = level + random.normal(size=(300, 8)), level + random.normal(size=(300, 8))
    assert abs(within_rank_correlation(left, right)) < 0.1
    assert spearmanr(left.ravel(), right.ravel()).statistic > 0.9
    constant = np.ones((50, 8))
    assert within_rank_correlation(np.r_[left, constant], np.r_[left, right[:50]]) == pytest.approx(1.0)
    assert math.isnan(within_rank_correlation(constant, left[:50]))


def test_the_rank_correlation_within_is_the_mean_over_positions() -> None:
    random = np.random.default_rng(1)
    # Few values, so that there are ties.
    left, right = random.integers(0, 4, (30, 9)).astype(float), random.integers(0, 4, (30, 9)).astype(float)
    expected = np.mean([spearmanr(a, b).statistic for a, b in zip(left, right, strict=True)])
    assert within_rank_correlation(left, right) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60))
def test_buckets_run_from_frequent_to_rare_and_share_the_text(counts: list[int]) -> None:
    array = np.array(counts, dtype=np.int64)
    buckets = frequency_buckets(array)
    assert buckets.min() >= 0
    assert buckets.max() <= 4
    order = np.argsort(-array, kind="stable")
    assert (np.diff(buckets[order]) >= 0).all()
    # A bucket holds a fifth of the text, except for the tokens that lie across its two ends.
    for number in range(5):
        held = array[buckets == number]
        if len(held):
            assert held.sum() <= array.sum() / 5 + 2 * array.max()


def test_positions_are_grouped_by_how_frequent_their_token_is() -> None:
    found = redrawn(0)
    counts = np.array([1000, 1000, 500, 500, 500, 500, 400, 300, 200, 100])
    found.loss_q[found.original == 9] = 1.0
    entries = bucket_figures(found, counts)
    assert [entry["bucket"] for entry in entries] == [1, 2, 3, 4, 5]
    assert sum(entry["positions"] for entry in entries) == len(found.sample)
    assert entries[0]["most_count"] == entries[0]["least_count"] == 1000
    rare = np.isin(found.original, np.flatnonzero(frequency_buckets(counts) == 4))
    assert entries[4]["draw_q"] == pytest.approx(found.loss_q[rare].var(1, ddof=1).mean())
    assert entries[4]["identical_p"] == pytest.approx(found.kept_p[rare].mean())
    assert entries[4]["least_count"] == 100


def test_positions_are_grouped_by_the_source_of_their_sample() -> None:
    found = redrawn(0)
    sources = ["web" if sample % 4 else "books" for sample in range(40)]
    by_source = source_figures(found, sources)
    assert list(by_source) == ["books", "web"]
    books = found.sample % 4 == 0
    assert by_source["books"]["positions"] == books.sum()
    assert by_source["books"]["draw_p"] == pytest.approx(found.loss_p[books].var(1, ddof=1).mean())
    assert by_source["web"]["identical_q"] == pytest.approx(found.kept_q[~books].mean())
