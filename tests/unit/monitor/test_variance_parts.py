"""The parts of L_D's variance against an enumeration of every outcome of a small nested design."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from electra_scale.monitor.variance_parts import PARTS, part_figures, parts_by_row

STATES = (0, 1)

LOSS = np.array([[[3.0, 4.0], [2.0, 6.0]], [[7.0, 7.5], [1.0, 9.0]]])
"""Of a row with a text, a mask and a draw, each one of two that are equally likely."""


def outcomes_of_a_row() -> list[np.ndarray]:
    """All equally likely sums (M, D) of a row under two masks with two draws each."""
    found = []
    for text, *rest in itertools.product(STATES, repeat=7):
        masks, draws = rest[:2], np.array(rest[2:]).reshape(2, 2)
        found.append(LOSS[text][np.array(masks)[:, None], draws])
    return found


def test_the_estimates_are_right_on_average_over_every_outcome() -> None:
    of_draws = LOSS.var(-1).mean()
    of_masks = LOSS.mean(-1).var(-1).mean()
    of_text = LOSS.mean((-1, -2)).var()
    rows = outcomes_of_a_row()
    found = dict.fromkeys(PARTS, 0.0)
    tokens = np.full(2, 5.0)
    for pair in itertools.product(rows, repeat=2):
        for name, part in parts_by_row(np.stack(pair) * 5.0, tokens).items():
            found[name] += part.mean() / len(rows) ** 2
    expected = {"text": of_text, "masks": of_masks, "draws": of_draws, "all": LOSS.var()}
    assert found == pytest.approx(expected)


def test_rows_of_other_lengths_with_one_mean_loss_add_nothing() -> None:
    tokens = np.array([3.0, 10.0, 7.0])
    sums = np.broadcast_to(0.4 * tokens[:, None, None], (3, 2, 2))
    for part in parts_by_row(sums, tokens).values():
        np.testing.assert_allclose(part, 0.0, atol=1e-12)


def test_shares_add_up_and_ratios_are_to_the_same_part_with_draws_from_p() -> None:
    random = np.random.default_rng(0)
    sums, tokens = random.normal(size=(40, 3, 4)), np.full(40, 2.0)
    p, q = parts_by_row(sums, tokens), parts_by_row(sums / 2, tokens)
    found = part_figures(p, q)
    assert sum(found["p"][name]["share"] for name in PARTS[:-1]) == pytest.approx(1)
    for name in PARTS:
        assert found["q"][name]["variance"] == pytest.approx(found["p"][name]["variance"] / 4)
        assert found["p"][name]["error"] == pytest.approx(p[name].std(ddof=1) / 40**0.5)
    assert found["q"]["draws"]["ratio"] == pytest.approx(0.25)
    assert found["q"]["draws"]["ratio_error"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 2, 2), (2, 1, 2), (2, 2, 1)])
def test_one_of_a_kind_has_no_variance(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        parts_by_row(np.ones(shape), np.ones(shape[0]))
