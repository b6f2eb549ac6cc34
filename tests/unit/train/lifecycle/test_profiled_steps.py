"""Which steps --profile FROM:TO names, and what is no such range."""

from __future__ import annotations

import pytest

from data_pipeline.errors import UserError
from electra_scale.train.lifecycle.profiled_steps import ProfiledSteps


@pytest.mark.parametrize(("text", "first", "last"), [("10:12", 10, 12), ("1:1", 1, 1), ("1:100", 1, 100)])
def test_a_range_has_both_its_ends(text: str, first: int, last: int) -> None:
    assert ProfiledSteps.of(text, 200) == ProfiledSteps(first, last)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((bad, "it must be FROM:TO") for bad in ("", "10", ":", "10:", ":3", "a:b", "1-3", "-1:3", "1:2:3", " 1:2")),
        *((bad, "it must be FROM:TO") for bad in ("1.0:2", "1:2\n", "\u0661:\u0662", f"1:{'9' * 30}")),
        ("0:3", "steps are counted from 1"),
        ("5:4", "FROM must not be after TO"),
        ("10:201", "the run has 200 steps"),
        ("1:101", "a trace can hold 100 at most"),
    ],
)
def test_anything_else_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        ProfiledSteps.of(text, 200)
    assert "\n" not in str(error.value)
