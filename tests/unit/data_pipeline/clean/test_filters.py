"""Each quality filter keeps what lies within its bounds and drops what lies outside."""

from __future__ import annotations

import typing

import pytest

from data_pipeline.clean.filters import FILTERS
from data_pipeline.config import FilterName


def repeated(lines: int, copies: int, width: int = 10) -> str:
    """``lines`` lines of which the last ``copies`` repeat the first one."""
    different = [f"{number:0{width}d}" for number in range(lines - copies)]
    return "\n".join([*different, *[different[0]] * copies])


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [
        ("words", ["w " * 50, "w " * 100_000], ["", "w " * 49, "w " * 100_001]),
        ("word_length", ["abc def", "abcdefghij " * 3, "ab abcd"], ["", "ab abc", "abcdefghij abcdefghijk"]),
        ("symbols", ["# " + "w " * 9, "... " + "w " * 9, "…" + "w " * 10, "w"], ["#" + " w" * 8, "… " + "w " * 8, "#"]),
        ("letters", ["a b c d 5", "a1 ü2 b c 5"], ["", "a b c 4 5 6", "1_ _", "a b c d 5 6"]),
        ("stop_words", ["The tree AND nothing", "to be"], ["", "the the the", "people walk", "theory andes"]),
        ("repeated_lines", ["", "one", repeated(10, 2), "a\n\n\nb\n\nc"], [repeated(10, 4), "x\nx", repeated(10, 3)]),
    ],
)
def test_both_sides_of_every_bound(name: FilterName, kept: list[str], dropped: list[str]) -> None:
    assert [FILTERS[name](text) for text in kept] == [True] * len(kept)
    assert [FILTERS[name](text) for text in dropped] == [False] * len(dropped)


def test_many_short_repeated_lines_are_dropped_by_number_and_few_long_ones_by_characters() -> None:
    # Three of ten lines repeat: allowed by number (30 %), while their characters stay below 20 %.
    short = "\n".join(["x", "x", "x", "x", *[f"{number:030d}" for number in range(6)]])
    assert FILTERS["repeated_lines"](short)
    assert not FILTERS["repeated_lines"]("x\n" + short)
    long = "\n".join(["y" * 60, "y" * 60, *[f"{number:010d}" for number in range(8)]])
    assert not FILTERS["repeated_lines"](long)


def test_every_name_of_the_configuration_has_its_filter() -> None:
    assert set(FILTERS) == set(typing.get_args(FilterName))
