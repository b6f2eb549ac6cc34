"""The global batch is the recipe's; micro-batch and accumulation follow from the ranks."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from electra_scale.recipe.batch import batch_split


@settings(max_examples=200, deadline=None)
@given(global_batch=st.integers(1, 300), ranks=st.integers(1, 40), most=st.integers(1, 100))
def test_the_split_gives_the_global_batch_with_the_largest_micro_batch_that_fits(
    global_batch: int, ranks: int, most: int
) -> None:
    if global_batch % ranks:
        with pytest.raises(UserError):
            batch_split(global_batch, ranks, most)
        return
    micro, accumulation = batch_split(global_batch, ranks, most)
    assert micro * accumulation * ranks == global_batch
    assert 1 <= micro <= most
    for larger in range(micro + 1, most + 1):
        assert (global_batch // ranks) % larger


@settings(max_examples=200, deadline=None)
@given(global_batch=st.integers(1, 300), ranks=st.integers(2, 40))
def test_what_a_refusal_names_works_and_is_the_nearest(global_batch: int, ranks: int) -> None:
    if global_batch % ranks == 0:
        return
    with pytest.raises(UserError) as refusal:
        batch_split(global_batch, ranks, 8)
    text = str(refusal.value)
    assert f"batch.global_batch is {global_batch}" in text
    assert f"{ranks} ranks cannot share" in text
    batches = [int(number) for number in re.findall(r"\d+", text.split("nearest that work: ")[1].split(", or use")[0])]
    others = [int(number) for number in re.findall(r"\d+", text.split(", or use ")[1])]
    below, above = global_batch // ranks * ranks, (global_batch // ranks + 1) * ranks
    assert batches == [size for size in (below, above) if size]
    for size in batches:
        batch_split(size, ranks, 8)
    for number in others:
        batch_split(global_batch, number, 8)
        between = range(min(number, ranks) + 1, max(number, ranks))
        assert all(global_batch % other for other in between)


def test_by_hand() -> None:
    assert batch_split(64, 2, 32) == (32, 1)
    assert batch_split(64, 2, 31) == (16, 2)
    assert batch_split(7, 1, 4) == (1, 7)
    with pytest.raises(UserError, match=r"is 9, which 2 ranks .* 8 or 10, or use 1 or 3 ranks"):
        batch_split(9, 2, 8)
