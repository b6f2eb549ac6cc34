"""Metrics against plain definitions, and sums that add up whatever the split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from electra_scale.corruption.corruption import Statistic, statistics_of
from electra_scale.corruption.statistics import (
    false_negative_statistics,
    generator_metrics,
    generator_statistics,
    hardness_statistics,
    rank_correlation,
    sampler_metrics,
)
from electra_scale.tasks.detection import (
    LISTS,
    MAXIMA,
    auc,
    detection_metrics,
    detection_statistics,
    draw_metrics,
    draw_statistics,
    weighted_loss_statistics,
)
from electra_scale.tasks.sums import Flattener, combine, joined, lists_of, logged, whole


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(values: dict[str, Tensor]) -> dict[str, np.ndarray]:
    statistics = statistics_of(values, MAXIMA, LISTS)
    flattener = Flattener(statistics)
    return flattener.unpack(flattener.pack(statistics).numpy()) | whole(lists_of(statistics))


def joint_statistics(
    masked_loss: Tensor,
    weight: Tensor,
    hardness: Tensor,
    identical: Tensor,
    logits: Tensor,
    replaced: Tensor,
    counted: Tensor,
) -> dict[str, Tensor]:
    """What a joint micro-batch with a generator gives."""
    return (
        weighted_loss_statistics(masked_loss, weight)
        | draw_statistics(masked_loss, weight, identical)
        | detection_statistics(logits, replaced, counted)
        | hardness_statistics(hardness, masked_loss)
        | false_negative_statistics(hardness > 1, ~identical, masked_loss)
    )


def joint_metrics(sums: dict[str, np.ndarray]) -> dict[str, float]:
    return generator_metrics(sums) | sampler_metrics(sums) | draw_metrics(sums) | detection_metrics(sums)


def pairwise_auc(logits: Tensor, replaced: Tensor) -> float:
    """Share of pairs in which the replaced token has the larger logit; a tie counts a half."""
    difference = logits[replaced][:, None] - logits[~replaced][None, :]
    return float((difference > 0).double().mean() + (difference == 0).double().mean() / 2)


def measured_auc(logits: Tensor, replaced: Tensor) -> float:
    counted = torch.ones_like(replaced)
    return detection_metrics(numbers(detection_statistics(logits, replaced, counted)))["disc/auc"]


@pytest.mark.parametrize("round_to", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.02, 0.15, 0.5])
@pytest.mark.parametrize(
    ("middle", "spread", "gap"),
    [(0.0, 1.0, 0.0), (0.0, 1.0, 0.7), (-14.0, 3.0, 6.0), (-60.0, 2.0, 3.0), (60.0, 2.0, 3.0), (-2.0, 1e-3, 1e-3)],
)
def test_auc_is_the_pairwise_auc_wherever_the_logits_lie(
    middle: float, spread: float, gap: float, share: float, round_to: torch.dtype
) -> None:
    replaced = torch.rand(40, 50, generator=random(0)) < share
    logits = middle + spread * torch.randn(40, 50, generator=random(1)) + gap * replaced
    logits = logits.to(round_to).float()
    assert measured_auc(logits, replaced) == pytest.approx(pairwise_auc(logits, replaced), abs=1e-9)


def test_auc_of_a_good_run_is_the_formula_of_two_normal_distributions() -> None:
    """Originals at N(-14, 3) and replaced tokens at N(-10, 3): all of it was beyond a logit of -10 once."""
    replaced = torch.arange(200_000) % 10 == 0
    logits = torch.randn(200_000, generator=random(0)) * 3 - torch.where(replaced, 10.0, 14.0)
    expected = float(stats.norm.cdf(4 / (3 * math.sqrt(2))))
    assert measured_auc(logits[None], replaced[None]) == pytest.approx(expected, abs=3e-3)


def test_auc_counts_ties_half_and_takes_infinite_logits() -> None:
    logits = torch.tensor([[-torch.inf, -torch.inf, 0.0, -0.0, torch.inf, torch.inf, 3e38, -1e-40]])
    replaced = torch.tensor([[True, False, True, False, True, False, False, True]])
    assert measured_auc(logits, replaced) == pytest.approx(6.5 / 16)


def test_auc_at_its_ends() -> None:
    replaced = torch.tensor([[False, False, True, True]])
    right = torch.tensor([[-2.0, -1.0, 1.0, 2.0]])
    assert measured_auc(right, replaced) == 1
    assert measured_auc(-right, replaced) == 0
    assert measured_auc(torch.zeros(1, 4), replaced) == 0.5
    assert measured_auc(1e6 * right, replaced) == 1
    for none in (auc(np.zeros(0), np.ones(3)), auc(np.ones(3), np.zeros(0)), auc(np.array([np.nan]), np.ones(3))):
        assert math.isnan(none)


def test_tokens_that_are_not_counted_do_not_matter() -> None:
    replaced = torch.rand(10, 20, generator=random(0)) < 0.3
    logits = torch.randn(10, 20, generator=random(1))
    counted = torch.rand(10, 20, generator=random(2)) < 0.5
    first = detection_statistics(logits, replaced, counted)
    other = detection_statistics(torch.where(counted, logits, 9.0), torch.where(counted, replaced, ~replaced), counted)
    for name, value in first.items():
        assert torch.equal(value, other[name])
    assert len(first["logits_original"]) + len(first["logits_replaced"]) == int(counted.sum())


def test_logits_that_are_not_numbers_do_not_stop_the_step_here() -> None:
    """The step ends in one line about a loss that is not finite; an index error would come before it."""
    logits = torch.tensor([[torch.nan, torch.inf, -torch.inf, 0.0]])
    replaced = torch.tensor([[False, True, False, True]])
    statistics = detection_statistics(logits, replaced, torch.ones_like(replaced))
    assert len(statistics["logits_original"]) + len(statistics["logits_replaced"]) == 4
    assert math.isnan(detection_metrics(numbers(statistics))["disc/auc"])


def test_precision_and_recall_by_hand() -> None:
    replaced = torch.tensor([[True, True, True, False, False, False]])
    logits = torch.tensor([[1.0, 2.0, -1.0, 1.0, -1.0, 5.0]])
    counted = torch.tensor([[True, True, True, True, True, False]])
    metrics = detection_metrics(numbers(detection_statistics(logits, replaced, counted)))
    assert metrics["disc/precision"] == pytest.approx(2 / 3)
    assert metrics["disc/recall"] == pytest.approx(2 / 3)
    nothing = detection_metrics(numbers(detection_statistics(-logits.abs(), replaced, counted)))
    assert nothing["disc/precision"] == 0
    assert nothing["disc/recall"] == 0


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=30))
def test_rank_correlation_is_spearmans_with_ties(pairs: list[tuple[int, int]]) -> None:
    left, right = (torch.tensor(part, dtype=torch.float32) for part in zip(*pairs, strict=True))
    ours = float(rank_correlation(left, right))
    if len(set(left.tolist())) == 1 or len(set(right.tolist())) == 1:
        assert ours == 0
    else:
        assert ours == pytest.approx(stats.spearmanr(left.numpy(), right.numpy()).statistic, abs=1e-6)


def test_rank_correlation_of_many_numbers() -> None:
    left = torch.randn(3000, generator=random(0))
    right = left + torch.randn(3000, generator=random(1))
    expected = stats.spearmanr(left.numpy(), right.numpy()).statistic
    assert 0.5 < expected < 0.8
    assert float(rank_correlation(left, right)) == pytest.approx(expected, abs=1e-6)
    assert float(rank_correlation(left, -left)) == pytest.approx(-1)
    assert float(rank_correlation(left[:1], right[:1])) == 0
    assert float(rank_correlation(left[:0], right[:0])) == 0


def test_generator_metrics_by_hand() -> None:
    # Of (0.7, 0.2, 0.1) and (0.25, 0.25, 0.5); the first original is the likeliest, the second is not.
    entropies = [stats.entropy([0.7, 0.2, 0.1]), stats.entropy([0.25, 0.25, 0.5])]
    log_probability = torch.tensor([0.7, 0.25]).log()
    sums = generator_statistics(log_probability, torch.tensor([True, False]), torch.tensor(entropies)) | {
        "masked": torch.tensor(2),
    }
    metrics = generator_metrics(numbers(sums))
    assert metrics["gen/cross_entropy"] == pytest.approx(-(math.log(0.7) + math.log(0.25)) / 2, rel=1e-6)
    assert metrics["gen/accuracy"] == 0.5
    assert metrics["gen/entropy"] == pytest.approx(np.mean(entropies), rel=1e-6)


def example() -> dict[str, Tensor]:
    """Four masked positions, six tokens."""
    statistics = joint_statistics(
        masked_loss=torch.tensor([1.0, 2.0, 0.5, 1.0]),
        weight=torch.tensor([1.0, 0.5, 2.0, 1.0]),
        hardness=torch.tensor([1.0, 3.0, 0.2, 1.0]),
        identical=torch.tensor([True, False, False, False]),
        logits=torch.tensor([[-1.0, 2.0, 1.0, -1.0, -2.0, -3.0]]),
        replaced=torch.tensor([[False, True, True, True, False, False]]),
        counted=torch.ones(1, 6, dtype=torch.bool),
    )
    return statistics | {
        "masked": torch.tensor(4),
        "tokens": torch.tensor(6),
        "stale": torch.tensor(2),
        "drift": torch.tensor(0.5),
        "generator_cross_entropy": torch.tensor(10.0),
        "generator_hits": torch.tensor(1),
        "generator_entropy": torch.tensor(6.0),
    }


def test_joint_metrics_by_hand() -> None:
    metrics = joint_metrics(numbers(example()))
    # w l is 1 at all four positions: the loss differs, its weighted value does not.
    assert metrics["disc_loss_variance/masked"] == pytest.approx(0, abs=1e-12)
    assert metrics["gen/cross_entropy"] == 2.5
    assert metrics["gen/accuracy"] == 0.25
    assert metrics["gen/entropy"] == 1.5
    assert metrics["sampling/identical_rate"] == 0.25
    assert metrics["sampling/weight_max"] == 2
    assert metrics["sampling/ess"] == pytest.approx(4.5**2 / 6.25 / 4)
    assert metrics["sampling/hardness_rank_correlation"] == pytest.approx(1)
    # Of three replaced draws, of which two have a loss above log 2.
    assert metrics["sampling/false_negative_rate"] == pytest.approx(1 / 3)
    assert metrics["sampling/false_negative_rate_hard"] == pytest.approx(1 / 2)
    assert metrics["disc/precision"] == 1
    assert metrics["disc/recall"] == pytest.approx(2 / 3)
    assert metrics["disc/auc"] == pytest.approx((3 + 3 + 2.5) / 9)


def test_variance_is_that_of_the_weighted_loss() -> None:
    statistics = example()
    loss, weight = torch.rand(50, generator=random(0)), torch.rand(50, generator=random(1))
    statistics |= joint_statistics(
        masked_loss=loss,
        weight=weight,
        hardness=weight,
        identical=torch.zeros(50, dtype=torch.bool),
        logits=torch.zeros(1, 1),
        replaced=torch.zeros(1, 1, dtype=torch.bool),
        counted=torch.ones(1, 1, dtype=torch.bool),
    )
    statistics["masked"] = torch.tensor(50)
    metrics = joint_metrics(numbers(statistics))
    assert metrics["sampling/staleness"] == pytest.approx(2 / 50)
    assert metrics["sampling/staleness_drift"] == pytest.approx(0.5 / 50)
    assert metrics["disc_loss_variance/masked"] == pytest.approx(float((weight * loss).var(unbiased=False)), rel=1e-5)


def test_metrics_do_not_depend_on_how_the_batch_was_split() -> None:
    """All but the rank correlation, which is the mean over micro-batches."""
    size = 12
    parts = {
        "masked_loss": torch.rand(size, generator=random(0)),
        "weight": torch.rand(size, generator=random(1)),
        "hardness": torch.rand(size, generator=random(2)),
        "identical": torch.rand(size, generator=random(3)) < 0.3,
        "logits": torch.randn(size, 7, generator=random(4)),
        "replaced": torch.rand(size, 7, generator=random(5)) < 0.3,
        "counted": torch.rand(size, 7, generator=random(6)) < 0.8,
    }

    def sums(first: int, last: int) -> list[Statistic]:
        return statistics_of(
            joint_statistics(**{name: part[first:last] for name, part in parts.items()}), MAXIMA, LISTS
        )

    flattener = Flattener(sums(0, size))
    total: Tensor | None = None
    splits = ((0, 5), (5, 6), (6, 12))
    for first, last in splits:
        vector = flattener.pack(sums(first, last))
        total = combine(total, vector, flattener.maximum_mask())
    assert total is not None
    split = flattener.unpack(total.numpy())
    together = flattener.unpack(flattener.pack(sums(0, size)).numpy())
    for name, value in together.items():
        if name != "rank_correlation":
            np.testing.assert_allclose(split[name], value, rtol=1e-6, err_msg=name)
    found = whole(joined([lists_of(sums(first, last)) for first, last in splits]))
    for name, value in whole(lists_of(sums(0, size))).items():
        np.testing.assert_array_equal(np.sort(found[name]), np.sort(value), err_msg=name)


def test_a_micro_batch_without_masked_positions_adds_nothing() -> None:
    empty = torch.zeros(0)
    statistics = joint_statistics(
        masked_loss=empty,
        weight=empty,
        hardness=empty,
        identical=torch.zeros(0, dtype=torch.bool),
        logits=torch.zeros(1, 3),
        replaced=torch.zeros(1, 3, dtype=torch.bool),
        counted=torch.zeros(1, 3, dtype=torch.bool),
    )
    for value in numbers(statistics).values():
        assert (value == 0).all()


def test_losses_follow_from_the_names_of_their_terms() -> None:
    statistics = [
        Statistic("loss/generator", torch.tensor(8.0), per="masked", weight=1.0),
        Statistic("loss/discriminator", torch.tensor(3.0), per="tokens", weight=50.0),
        Statistic("loss/order", torch.tensor(2.0), per="pairs", weight=2.0),
        Statistic("order/accuracy", torch.tensor(3), per="pairs"),
        Statistic("weight_max", torch.tensor(3.0), "max"),
    ]
    flattener = Flattener(statistics)
    counts = {"masked": np.array([4.0]), "tokens": np.array([6.0]), "pairs": np.array([4.0])}
    metrics = logged(flattener.kept, flattener.unpack(flattener.pack(statistics).numpy()) | counts)
    assert metrics == {
        "loss/generator": 2.0,
        "loss/discriminator": 0.5,
        "loss/order": 0.5,
        "order/accuracy": 0.75,
        "loss/total": 2 + 50 * 0.5 + 2 * 0.5,
    }


def test_flattening_and_back_keeps_every_statistic() -> None:
    values = {
        "b": torch.arange(3),
        "weight_max": torch.tensor(7.5),
        "a": torch.tensor(2.0),
        "count": torch.tensor(2**40),
    }
    statistics = statistics_of(values, MAXIMA)
    flattener = Flattener(statistics)
    vector = flattener.pack(statistics)
    assert vector.dtype == torch.float64
    assert vector.shape == (6,)
    back = flattener.unpack(vector.numpy())
    assert set(back) == set(values)
    for name, value in values.items():
        np.testing.assert_array_equal(back[name], value.reshape(-1).double().numpy())
    # The order in which a rank happens to fill its dictionary must not matter.
    assert torch.equal(flattener.pack(list(reversed(statistics))), vector)


def test_combining_adds_up_and_keeps_the_largest_weight() -> None:
    first, second = (
        statistics_of({"weight_max": torch.tensor(largest), "sum": torch.tensor(parts)}, MAXIMA)
        for largest, parts in ((3.0, [1.0, 2.0]), (2.0, [10.0, 20.0]))
    )
    flattener = Flattener(first)
    mask = flattener.maximum_mask()
    assert mask is not None
    assert mask.sum() == 1
    assert Flattener([one for one in first if one.name == "sum"]).maximum_mask() is None
    vector = combine(combine(None, flattener.pack(first), mask), flattener.pack(second), mask)
    back = flattener.unpack(vector.numpy())
    assert back["weight_max"].tolist() == [3]
    assert back["sum"].tolist() == [11, 22]
