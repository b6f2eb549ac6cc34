"""Scores of a run folder are read once, for cards and pages alike; a damaged file costs itself alone, in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from electra_scale.export.card_scores import scores_of
from electra_scale.export.scores import read_scores
from electra_scale.report.scores import shown_scores
from tests.unit.report.conftest import write_scores


def changed(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_the_commands_wrote_is_read_with_its_file_and_variant(tmp_path: Path) -> None:
    write_scores(tmp_path)
    (tmp_path / "evaluation/pairs-100.json").rename(tmp_path / "evaluation/pairs-generator-100.json")
    changed(tmp_path / "finetune/cola/result.json", kind="tagging", deviation={"matthews": None})
    (found,), (tuned,) = read_scores(tmp_path).evaluations, read_scores(tmp_path).tuned
    assert (found.file, found.variant, found.step) == ("evaluation/pairs-generator-100.json", "generator", 100)
    assert (tuned.kind, tuned.main, tuned.spread) == ("token-classification", 0.21, None)
    assert tuned.seeds == pytest.approx((0.2, 0.21, 0.22))


def test_a_score_without_a_value_is_not_a_number_and_no_card_has_it(tmp_path: Path) -> None:
    write_scores(tmp_path)
    changed(tmp_path / "evaluation/pairs-100.json", scores=[{"name": "auc", "value": None}])
    assert math.isnan(shown_scores(tmp_path).evaluations[0].scores[0].value)
    assert scores_of(tmp_path, 100).probes[0].figures == []


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("evaluation/pairs-100.json", "{"),
        ("evaluation/pairs-100.json", "[]"),
        ("evaluation/pairs-100.json", {"by": None, "scores": 3}),
        ("evaluation/pairs-100.json", {"scores": [{"value": 1}]}),
        ("evaluation/pairs-100.json", {"step": "late"}),
        ("evaluation/pairs-100.json", {"version": 2}),
        ("finetune/cola/result.json", {"mean": {"accuracy": 1}}),
        ("finetune/cola/result.json", {"mean": {"matthews": "high"}}),
        ("finetune/cola/result.json", {"seeds": [1]}),
        ("finetune/cola/result.json", {"deviation": None}),
    ],
)
def test_a_damaged_file_is_left_out_of_cards_and_pages_alike(tmp_path: Path, file: str, content: Any) -> None:
    write_scores(tmp_path)
    if isinstance(content, str):
        (tmp_path / file).write_text(content)
    else:
        changed(tmp_path / file, **content)
    shown, card = shown_scores(tmp_path), scores_of(tmp_path, 100)
    assert (len(shown.evaluations) + len(shown.tuned), len(card.probes) + len(card.tasks)) == (1, 1)
    (line,) = shown.unread
    assert line.startswith(f"{file} ")
    assert card.notes == [f"Left out: {line}."]
