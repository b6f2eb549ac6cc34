"""What a task is: its kind, columns and labels, how it is scored, and what of the recipe depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["classification", "regression", "tagging", "question-answering"]

ROLES: Mapping[Kind, tuple[str, ...]] = {
    "classification": ("text", "text2", "label"),
    "regression": ("text", "text2", "label"),
    "tagging": ("tokens", "tags"),
    "question-answering": ("id", "question", "context", "answers"),
}
"""What the columns of a kind of task can mean."""

OPTIONAL_ROLES = ("text2", "id")

METRICS: Mapping[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "f1_macro"),
    "regression": ("spearman", "pearson"),
    "tagging": ("f1", "precision", "recall", "accuracy"),
    "question-answering": ("f1", "exact_match"),
}
"""The metrics of a kind, the main one first, where a task has none of its own."""


@dataclass(frozen=True)
class Hub:
    """Where the ``datasets`` library finds a task: a name, a configuration, its columns and splits if they differ."""

    name: str
    configuration: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A task, ready for any encoder.

    Attributes:
        columns: what each column means (a key of ``ROLES``), and what it is called in the rows.
        labels: names of the classes or tags in the order of their ids; None: those that train has.
        bounds: least and greatest label of a regression.
        metrics: names of metrics, the main one first.
        scored_on: the split that scores are of.
        further: splits that are scored too, by the suffix of their metrics.
        epochs, length, rate: passes over train, pieces of a text, learning rate of the head (None: by the model's
            width).
        both_orders: train on each pair of texts in both orders.
        unanswerable: some questions have no answer; False leaves such questions out.
        folders: names that its folder may have beside those of other tasks.
    """

    name: str
    kind: Kind
    columns: Mapping[str, str]
    metrics: tuple[str, ...]
    about: str = ""
    labels: tuple[str, ...] | None = None
    bounds: tuple[float, float] | None = None
    scored_on: str = "validation"
    further: Mapping[str, str] = field(default_factory=dict)
    epochs: float = 3.0
    length: int = 128
    rate: float | None = None
    both_orders: bool = False
    unanswerable: bool = True
    folders: tuple[str, ...] = ()
    hub: Hub | None = None

    @property
    def main(self) -> str:
        """The metric that checkpoints and seeds are chosen by; more is better."""
        return self.metrics[0]


def own_task(kind: Kind, name: str, columns: Mapping[str, str], labels: tuple[str, ...] | None = None) -> Task:
    """A task of a user's own rows; ``columns`` say what they call the roles of the kind."""
    length = 384 if kind == "question-answering" else 128
    epochs = 2.0 if kind == "question-answering" else 3.0
    return Task(name, kind, columns, METRICS[kind], labels=labels, length=length, epochs=epochs)
