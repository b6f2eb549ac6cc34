"""Scores are those of other programs, and a model that has learned nothing scores 0 instead of failing."""

from __future__ import annotations

import numpy as np
import pytest

from electra_scale.finetune.metrics import answer_scores, class_scores, correlations, tag_scores, threshold_scores

# F1 and exact match as transformers 4.57 gives them (data/metrics/squad_metrics.py, its copy of the official script).
OF_TRANSFORMERS = [
    (["the Eiffel Tower"], "Eiffel tower", 1.0, 1.0),
    (["in 1912", "1912"], "the year 1912", 0.666667, 0.0),
    ([], "", 1.0, 1.0),
    ([], "Paris", 0.0, 0.0),
    (["Paris"], "", 0.0, 0.0),
    (["a"], "the", 1.0, 1.0),
    (["New York City, U.S."], "New York city", 0.857143, 0.0),
    (["it's 5%"], "its 5", 1.0, 1.0),
    (["ten ten two"], "two ten", 0.8, 0.0),
]


@pytest.mark.parametrize(("gold", "predicted", "f1", "exact"), OF_TRANSFORMERS)
def test_answers_score_as_in_the_official_script(gold: list[str], predicted: str, f1: float, exact: float) -> None:
    assert answer_scores(gold, predicted) == (pytest.approx(f1, abs=1e-6), exact)


def test_thresholds_for_no_answer_score_as_in_the_official_script() -> None:
    gold = [["good"], [], ["bad film"], [], ["dull"]]
    predicted = ["good", "good", "film", "dull", "the dull"]
    # squad_evaluate of transformers 4.57 gives exact 40, f1 40, best_exact 60 and best_f1 60 on these.
    found = threshold_scores(gold, predicted, np.array([-3.0, 1.5, 0.5, -1.0, 2.0]))
    assert found["f1"] == pytest.approx(0.4)
    assert found["exact_match"] == pytest.approx(0.4)
    assert found["f1_tuned"] == pytest.approx(0.6)
    assert found["exact_match_tuned"] == pytest.approx(0.6)
    assert -3.0 < found["threshold"] < -1.0


def test_the_tuned_threshold_is_the_best_of_all() -> None:
    draw = np.random.default_rng(0)
    gold = [["good"] if draw.random() < 0.6 else [] for _ in range(60)]
    predicted = [str(draw.choice(["good", "bad", "good film"])) for _ in gold]
    # Few values, so that many are equal: no threshold parts those.
    margins = draw.integers(-4, 5, len(gold)).astype(float)

    def f1_at(threshold: float) -> float:
        pairs = zip(gold, predicted, margins, strict=True)
        return float(np.mean([answer_scores(texts, "" if m > threshold else said)[0] for texts, said, m in pairs]))

    found = threshold_scores(gold, predicted, margins)
    assert found["f1_tuned"] == pytest.approx(max(f1_at(threshold) for threshold in np.arange(-6, 6, 0.5)))
    assert f1_at(found["threshold"]) == pytest.approx(found["f1_tuned"])
    assert f1_at(0.0) == pytest.approx(found["f1"])


def test_what_always_says_the_same_scores_nothing() -> None:
    gold = np.array([0, 1, 1, 0])
    assert class_scores(("matthews", "accuracy"), gold, np.ones(4, np.int64)) == {"matthews": 0.0, "accuracy": 0.5}
    assert class_scores(("f1",), gold, np.zeros(4, np.int64)) == {"f1": 0.0}
    assert correlations(("pearson", "spearman"), gold.astype(float), np.ones(4)) == {"pearson": 0.0, "spearman": 0.0}
    assert tag_scores(("f1", "accuracy"), [["B-NP", "O"]], [["O", "O"]]) == {"f1": 0.0, "accuracy": 0.5}


def test_chunks_count_whole() -> None:
    gold = [["B-NP", "I-NP", "O", "B-VP"]]
    found = tag_scores(("f1", "precision", "recall"), gold, [["B-NP", "O", "O", "B-VP"]])
    assert found == {"f1": 0.5, "precision": 0.5, "recall": 0.5}
