"""Scores of predictions, each between 0 and 1 (correlations: -1 and 1), by scikit-learn, scipy and seqeval."""

from __future__ import annotations

import math
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data_pipeline.extras import needs_extra

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def require_metrics() -> None:
    """Raises UserError if the libraries that compute scores, or what Trainer needs, are not installed."""
    with needs_extra("finetune", "scikit-learn", "fine-tuning"):
        import sklearn  # noqa: F401
    with needs_extra("finetune", "seqeval", "fine-tuning"):
        import seqeval  # noqa: F401
    with needs_extra("finetune", "accelerate", "fine-tuning"):
        import accelerate  # noqa: F401


def class_scores(names: Sequence[str], gold: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, float]:
    """The metrics of classes (N,). ``f1`` is that of class 1, ``f1_macro`` the mean over classes; 0 where undefined."""
    from sklearn import metrics

    def f1(average: str) -> float:
        return float(metrics.f1_score(gold, predicted, average=average, zero_division=0.0))

    known: Mapping[str, Callable[[], float]] = {
        "accuracy": lambda: float(metrics.accuracy_score(gold, predicted)),
        "f1": lambda: f1("binary"),
        "f1_macro": lambda: f1("macro"),
        "matthews": lambda: float(metrics.matthews_corrcoef(gold, predicted)),
    }
    return {name: known[name]() for name in names}


def correlations(names: Sequence[str], gold: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    """Pearson's and Spearman's correlation of numbers (N,); 0 where one of them is constant."""
    from scipy import stats

    known = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}
    with warnings.catch_warnings():
        # A model that gives one number for all has learned nothing, and scores 0.
        warnings.simplefilter("ignore")
        found = {name: float(known[name](gold, predicted)[0]) for name in names}
    return {name: value if math.isfinite(value) else 0.0 for name, value in found.items()}


def tag_scores(names: Sequence[str], gold: Sequence[list[str]], predicted: Sequence[list[str]]) -> dict[str, float]:
    """Metrics of tags, one list a row. ``f1``, ``precision`` and ``recall`` are those of whole chunks; ``accuracy`` is
    that of single tags."""
    from seqeval import metrics

    known = {"precision": metrics.precision_score, "recall": metrics.recall_score, "f1": metrics.f1_score}
    found = {}
    for name in names:
        if name == "accuracy":
            found[name] = float(metrics.accuracy_score(gold, predicted))
        else:
            found[name] = float(known[name](gold, predicted, zero_division=0))
    return found


def normalised(answer: str) -> str:
    """An answer as SQuAD's official script compares it: lower case, without punctuation, articles and extra blanks."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def answer_scores(gold: Sequence[str], predicted: str) -> tuple[float, float]:
    """F1 over words and exact match of an answer, each the best over the true ones; none: the empty answer is true.

    As in SQuAD 2.0's official script; transformers had a copy of it up to its version 4.
    """
    truths = [text for text in gold if normalised(text)] or [""]
    return max(_f1(text, predicted) for text in truths), max(
        float(normalised(text) == normalised(predicted)) for text in truths
    )


def _f1(gold: str, predicted: str) -> float:
    truth, words = normalised(gold).split(), normalised(predicted).split()
    if not truth or not words:
        return float(truth == words)
    shared = sum((Counter(truth) & Counter(words)).values())
    return 2 * shared / (len(truth) + len(words))


def threshold_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[str], null_margin: NDArray[np.float64]
) -> dict[str, float]:
    """Scores of questions some of which have no answer, for the threshold 0 and for the one that gives the best F1.

    A question is said to have no answer where ``null_margin``, the score of that less the score of the best answer,
    is above the threshold. Both are scored on the same questions, as the official script does it, so the tuned scores
    flatter; the plain ones do not.
    """
    answered = np.array([answer_scores(texts, answer) for texts, answer in zip(gold, predicted, strict=True)])
    silent = np.array([answer_scores(texts, "") for texts in gold])
    chosen = np.where((null_margin > 0)[:, None], silent, answered).mean(0)
    # In the order of the margins, all before a cut are answered and all after it are not.
    order = np.argsort(null_margin, kind="stable")
    margins = null_margin[order]
    gains = np.concatenate([[0.0], np.cumsum((answered - silent)[order, 0])])
    # No threshold parts equal margins.
    gains[1:-1][margins[:-1] == margins[1:]] = -np.inf
    cut = int(gains.argmax())
    tuned = (silent.sum(0) + (answered - silent)[order[:cut]].sum(0)) / len(order)
    if cut == 0:
        threshold = float(margins[0]) - 1.0
    elif cut == len(order):
        threshold = float(margins[-1])
    else:
        threshold = float(margins[cut - 1] + margins[cut]) / 2
    return {
        "f1": float(chosen[0]),
        "exact_match": float(chosen[1]),
        "f1_tuned": float(tuned[0]),
        "exact_match_tuned": float(tuned[1]),
        "threshold": threshold,
    }
