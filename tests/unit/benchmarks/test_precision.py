"""Curves of losses are compared by means over windows of steps."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.training.precision import apart, smooth


def test_a_window_lies_in_the_curve_whole() -> None:
    assert smooth(np.arange(6.0), 4).tolist() == [1.5, 2.5, 3.5]


def test_curves_are_as_far_apart_as_their_windows() -> None:
    one = np.zeros(6)
    other = np.array([0.0, 0.0, 3.0, -3.0, 0.0, 6.0])
    assert apart(one, other, 1) == (6.0, 2.0)
    # Windows of two: 0, 1.5, 0, 1.5, 3.
    assert apart(one, other, 2) == (3.0, pytest.approx(1.2))
