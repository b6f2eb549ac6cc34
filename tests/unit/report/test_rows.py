"""Rows become curves without losing what stands out, and what is wrong with the file is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from electra_scale.report.rows import POINTS, curve, read_rows


def rows_of(tmp_path: Path, lines: list[str], end: str = "\n") -> Path:
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(lines) + end)
    return path


def lines(steps: range, phase: str = "joint") -> list[str]:
    return [json.dumps({"step": step, "phase": phase, "loss": float(step)}) for step in steps]


def test_damage_is_counted_and_a_line_that_is_being_written_is_not(tmp_path: Path) -> None:
    wrong = ["", "[]", "{}", '{"step": "3"}', '{"step": 1.5}', '{"step": -1}', "[" * 3000, '{"step": 4']
    found = read_rows(rows_of(tmp_path, [*lines(range(1, 3)), *wrong, '{"step": 3, "loss": '], end=""))
    assert found.steps.tolist() == [1, 2]
    assert found.damaged == len(wrong)
    assert len(read_rows(tmp_path / "none")) == 0


def test_of_a_step_that_is_there_twice_the_later_row_counts(tmp_path: Path) -> None:
    later = '{"step": 2, "phase": "joint", "loss": 9}'
    found = read_rows(rows_of(tmp_path, [*lines(range(1, 4)), later]))
    assert found.columns["loss"].tolist() == [1.0, 9.0, 3.0]
    assert found.repeated == 1


def test_values_that_are_not_finite_are_kept_apart(tmp_path: Path) -> None:
    values = ["null", "NaN", "Infinity", "-Infinity", f"1{'0' * 400}", "2", '"text"', "true", "[1]"]
    found = read_rows(rows_of(tmp_path, [f'{{"step": {n}, "loss": {value}}}' for n, value in enumerate(values)]))
    assert found.bad["loss"].tolist() == [0, 1, 2, 3, 4]
    drawn = curve(found, "loss")
    assert drawn is not None
    assert (drawn.steps.tolist(), drawn.values.tolist()) == ([5.0], [2.0])
    assert curve(found, "other") is None


def test_a_long_run_is_thinned_to_means_with_what_is_least_and_largest(tmp_path: Path) -> None:
    count = 20_000
    values = np.random.default_rng(0).normal(size=count)
    values[12_345] = 1000.0
    text = [f'{{"step": {n}, "phase": "joint", "loss": {value}}}' for n, value in enumerate(values)]
    drawn = curve(read_rows(rows_of(tmp_path, text)), "loss")
    assert drawn is not None
    assert POINTS - 1 <= len(drawn.steps) <= POINTS
    assert drawn.high.max() == 1000.0
    assert drawn.low.min() == pytest.approx(values.min())
    assert (drawn.values.mean(), drawn.steps.mean()) == pytest.approx((values.mean(), (count - 1) / 2), rel=1e-6)
    assert drawn.logged == count


def test_a_curve_is_broken_at_a_gap_and_between_phases(tmp_path: Path) -> None:
    text = [*lines(range(1, 11), "generator_warmup"), *lines(range(11, 21)), *lines(range(60, 66))]
    drawn = curve(read_rows(rows_of(tmp_path, text)), "loss")
    assert drawn is not None
    assert drawn.values[np.isfinite(drawn.values)].tolist() == [*range(1, 21), *range(60, 66)]
    assert np.flatnonzero(np.isnan(drawn.values)).tolist() == [10, 21]


def test_one_row_is_a_curve_of_one_point(tmp_path: Path) -> None:
    drawn = curve(read_rows(rows_of(tmp_path, lines(range(7, 8)))), "loss")
    assert drawn is not None
    assert (drawn.steps.tolist(), drawn.values.tolist(), drawn.each) == ([7.0], [7.0], 1)
