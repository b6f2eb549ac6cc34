"""The oracle's figures by hand, and their errors."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from electra_scale.monitor.oracle_figures import Enumerated, OracleRow, Redraws, oracle_figures


def redraws(groups: list[float]) -> Redraws:
    """Variances of all kinds in each group: of the masked losses as given, of the others a tenth, of both twice."""
    by_group = [[one, 0.1 * one, 2 * one] for one in groups]
    return Redraws([4.0, 6.0, 10.0], by_group, {"head": by_group, "last layer": by_group}, 8.0, 16.0, 3.0)


def rows(head: list[list[float]]) -> list[OracleRow]:
    return [
        OracleRow(
            row=number,
            masked=2,
            tokens=10,
            enumerated=Enumerated(1.8, {"p": 4.0, "head": 1.0}, {"p": 4.0, "head": 3.0}, 2.0),
            redraws={"p": redraws([10.0, 10.0]), "head": redraws(groups)},
        )
        for number, groups in enumerate(head)
    ]


def test_ratios_and_what_is_reached_of_the_possible_gain() -> None:
    figures = oracle_figures(rows([[5.0, 7.0], [6.0, 6.0]]))
    assert (figures["rows"], figures["positions"], figures["covered"]) == (2, 4, 0.9)
    exact = figures["enumerated"]
    assert exact["loss"]["head"]["ratio"] == 0.25
    assert exact["loss"]["head"]["reached"] == 0.75
    assert exact["gradient"]["head"]["reached"] == 0.5
    assert exact["gradient"]["least"]["ratio"] == 0.5
    head = figures["drawn"]["head"]
    for what in ("loss", "head", "all parameters"):
        assert head[what]["masked"]["ratio"] == pytest.approx(0.6)
        assert head[what]["others"]["share"] == pytest.approx(0.05)
        assert figures["drawn"]["p"][what]["both"]["ratio"] == 1
    assert head["all parameters"]["both"]["variance"] == pytest.approx(2 * (2 * 6 + 2 * 6))
    assert head["ess"] == 0.5
    assert head["mean_masked_loss"] == 2.0


def test_the_errors_are_those_of_other_draws_and_of_other_rows() -> None:
    rng = np.random.default_rng(0)
    spread = {"error_draws": [], "error_rows": []}
    ratios = []
    for _ in range(60):
        # True variances of the rows differ; those of a group are noisy.
        found = oracle_figures(rows((rng.normal(6, 1, (15, 1)) + rng.normal(0, 2, (15, 2))).tolist()))
        one = found["drawn"]["head"]["loss"]["both"]
        ratios.append(one["ratio"])
        for name, kept in spread.items():
            kept.append(one[name])
    assert np.mean(spread["error_rows"]) == pytest.approx(np.std(ratios), rel=0.3)
    assert np.mean(spread["error_draws"]) == pytest.approx(2 / 10 / math.sqrt(30), rel=0.1)
    assert np.mean(spread["error_draws"]) < np.mean(spread["error_rows"])


def test_a_row_survives_json() -> None:
    [row, _] = rows([[5.0, 7.0], [6.0, 6.0]])
    assert OracleRow.of(json.loads(json.dumps(row.to_dict()))) == row
