"""Masking: an exact share of the ordinary tokens, without replacement."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from electra_scale.data.masking import choose_positions, masks

from .conftest import SPECIAL


def rows(number: int, width: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of two segments and some padding."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, 100, (number, width))
    segment = np.zeros((number, width), dtype=np.int64)
    for row in range(number):
        middle, end = sorted(random.integers(3, width + 1, 2))
        segment[row, middle:] = 1
        ids[row, 0] = SPECIAL.cls
        ids[row, middle - 1] = SPECIAL.sep
        ids[row, middle : middle + 1] = SPECIAL.cls
        ids[row, end - 1] = SPECIAL.sep
        ids[row, end:] = SPECIAL.pad
        segment[row, end:] = -1
    return ids, segment


def mask(
    ids: NDArray[np.int64], segment: NDArray[np.int64], share: float = 0.15, token_share: float = 0.85, seed: int = 0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    number = len(ids)
    return masks(ids, segment, SPECIAL.ids(), seed, np.zeros(number, np.int64), np.arange(number), share, token_share)


@settings(max_examples=100, deadline=None)
@given(
    maskable=st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=8),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_the_exact_share_is_chosen_among_what_may_be(maskable: list[list[bool]], share: float, seed: int) -> None:
    allowed = np.array(maskable)
    chosen = choose_positions(allowed, np.random.default_rng(seed).random(allowed.shape), share)
    assert not (chosen & ~allowed).any()
    for may, taken in zip(allowed, chosen, strict=True):
        available = int(may.sum())
        assert abs(int(taken.sum()) - share * available) <= 0.5 or taken.sum() == 1
        assert taken.sum() >= min(1, available)


def test_the_positions_with_the_smallest_numbers_are_chosen() -> None:
    allowed = np.array([[True, True, False, True, True]])
    order = np.array([[0.5, 0.1, 0.0, 0.9, 0.3]])
    assert choose_positions(allowed, order, 0.5).tolist() == [[False, True, False, False, True]]


def test_of_equal_numbers_the_first_positions_are_chosen() -> None:
    allowed = np.array([[True, False, True, True, True, True]])
    order = np.array([[0.5, 0.5, 0.5, 0.5, 0.1, 0.9]])
    assert choose_positions(allowed, order, 0.4).tolist() == [[True, False, False, False, True, False]]


@settings(max_examples=100, deadline=None)
@given(
    maskable=st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=6),
    share=st.floats(0.01, 0.99),
    distinct=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_the_choice_is_the_head_of_each_row_sorted(
    maskable: list[list[bool]], share: float, distinct: int, seed: int
) -> None:
    allowed = np.array(maskable)
    order = np.random.default_rng(seed).integers(0, distinct, allowed.shape) / distinct
    chosen = choose_positions(allowed, order, share)
    for may, numbers, taken in zip(allowed, order, chosen, strict=True):
        places = sorted(np.flatnonzero(may).tolist(), key=lambda place: (numbers[place], place))
        wanted = min(max(int(np.rint(share * len(places))), 1), len(places))
        assert np.flatnonzero(taken).tolist() == sorted(places[:wanted])


def test_neither_special_tokens_nor_padding_are_ever_chosen() -> None:
    ids, segment = rows(300, 40)
    chosen, shown = mask(ids, segment, share=0.9)
    assert not np.isin(ids[chosen], SPECIAL.ids()).any()
    assert (segment[chosen] >= 0).all()
    assert not (shown & ~chosen).any()


def test_a_special_token_inside_the_text_is_not_chosen_either() -> None:
    ids = np.full((50, 20), 9)
    ids[:, 5:15] = SPECIAL.mask
    chosen, _ = mask(ids, np.zeros_like(ids), share=0.9)
    assert not chosen[:, 5:15].any()


def test_a_row_with_any_token_has_at_least_one_chosen_and_one_without_has_none() -> None:
    ids = np.full((2, 8), SPECIAL.pad)
    segment = np.full((2, 8), -1)
    ids[0, :3], segment[0, :3] = [SPECIAL.cls, 9, SPECIAL.sep], 0
    chosen, _ = mask(ids, segment, share=0.01)
    assert chosen.sum(-1).tolist() == [1, 0]


def test_about_85_of_100_chosen_are_shown_as_mask() -> None:
    ids, segment = rows(1000, 128)
    chosen, shown = mask(ids, segment)
    assert stats.binomtest(int(shown.sum()), int(chosen.sum()), 0.85).pvalue > 1e-3
    for token_share, expected in ((0.0, 0), (1.0, chosen.sum())):
        assert mask(ids, segment, token_share=token_share)[1].sum() == expected


def test_every_position_is_chosen_about_equally_often() -> None:
    ids = np.full((4000, 20), 9)
    chosen, _ = mask(ids, np.zeros_like(ids))
    assert (chosen.sum(-1) == 3).all()
    counts = chosen.sum(0)
    assert ((counts - 600) ** 2 / 600).sum() < stats.chi2(19).isf(1e-4)


def test_a_larger_share_keeps_the_choice_of_a_smaller_one() -> None:
    """Keyed noise orders the positions once, whatever the phase asks for."""
    ids, segment = rows(100, 40)
    small, large = mask(ids, segment, share=0.15)[0], mask(ids, segment, share=0.4)[0]
    assert not (small & ~large).any()
    assert large.sum() > 2 * small.sum()


def test_seeds_differ() -> None:
    ids, segment = rows(20, 40)
    assert (mask(ids, segment, seed=0)[0] != mask(ids, segment, seed=1)[0]).any()
