"""From checked examples to what a model takes, and from what it gives back to scores: texts and tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import UserError
from data_pipeline.progress import counted
from electra_scale.finetune.metrics import class_scores, correlations, tag_scores
from electra_scale.finetune.tasks.examples import Example
from electra_scale.finetune.tasks.task import Task

Feature = dict[str, Any]

IGNORED = -100
"""The label of a position that counts for nothing, as PyTorch's cross entropy has it."""

_SHOWN = 50


@dataclass(frozen=True)
class Encoded:
    """A split as a model takes it. ``score`` takes the model's outputs in the order of ``features``: (N, C) for texts,
    ids (N, S) for tags, start and end scores (N, S) for questions. ``notes`` say what was cut."""

    features: Sequence[Feature]
    score: Callable[[Any], dict[str, float]]
    notes: list[str] = field(default_factory=list)


def by_length(features: Sequence[Feature]) -> NDArray[np.int64]:
    """An order in which batches have rows of like length, so that little is padded."""
    return np.argsort([-len(feature["input_ids"]) for feature in features], kind="stable")


def restored(values: Any, order: NDArray[np.int64]) -> Any:
    """Outputs (N, ...) in the order that the rows had before they were sorted by ``order``."""
    back = np.empty_like(values)
    back[order] = values
    return back


def encode_texts(task: Task, examples: Sequence[Example], tokenizer: Any, length: int, training: bool) -> Encoded:
    """One text or a pair a row, cut at ``length`` pieces, the longer text of a pair first; ``labels`` in training.

    Training on both orders doubles the rows of a task that asks for it."""
    rows = list(examples)
    if training and task.both_orders:
        rows += [{**row, "text": row["text2"], "text2": row["text"]} for row in rows]
    paired = "text2" in task.columns
    texts = [[row["text"] for row in rows], *([[row["text2"] for row in rows]] if paired else [])]
    features = _pieces(tokenizer, texts)
    notes = []
    long = [index for index, feature in enumerate(features) if len(feature["input_ids"]) > length]
    if long:
        cut = _pieces(tokenizer, [[part[index] for index in long] for part in texts], length)
        for index, feature in zip(long, cut, strict=True):
            features[index] = feature
        # A pair that is trained in both orders is one row of the user's.
        first = [index for index in long if index < len(examples)]
        notes.append(
            f"{counted(len(first), 'row')} of {len(examples):,} cut at {length} pieces "
            f"(such as {_short(rows[first[0]])})"
        )
    if training:
        for feature, row in zip(features, rows, strict=True):
            feature["labels"] = row["label"]
        return Encoded(features, lambda _: {}, notes)
    order = by_length(features)

    def score(logits: Any) -> dict[str, float]:
        found = restored(logits, order)
        if task.kind == "regression":
            return correlations(task.metrics, np.array([row["label"] for row in rows]), found[:, 0].astype(np.float64))
        return class_scores(task.metrics, np.array([row["label"] for row in rows]), found.argmax(-1))

    return Encoded([features[index] for index in order], score, notes)


def encode_tags(task: Task, examples: Sequence[Example], tokenizer: Any, length: int, training: bool) -> Encoded:
    """One row of words each. The first piece of a word has its tag, the others are ignored.

    Words beyond ``length`` pieces, or without a piece, are not seen by the model; in scores they count as untagged."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "the model's tokenizer does not say which word a piece belongs to, which tagging needs; give a folder with "
            "tokenizer.json"
        )
    encoded = tokenizer(
        [row["tokens"] for row in examples], is_split_into_words=True, truncation=True, max_length=length, verbose=False
    )
    features, firsts, unseen = [], [], []
    for index, row in enumerate(examples):
        first: dict[int, int] = {}
        for position, word in enumerate(encoded.word_ids(index)):
            if word is not None:
                first.setdefault(word, position)
        firsts.append(first)
        if len(first) < len(row["tokens"]):
            unseen.append(index)
        feature = {name: values[index] for name, values in encoded.items()}
        if training:
            labels = [IGNORED] * len(feature["input_ids"])
            for word, position in first.items():
                labels[position] = row["tags"][word]
            feature["labels"] = labels
        features.append(feature)
    notes = []
    if unseen:
        example = " ".join(examples[unseen[0]]["tokens"])
        notes.append(
            f"{counted(len(unseen), 'row')} of {len(examples):,} have words beyond {length} pieces or without a piece, "
            f"which the model does not see (such as {example[:_SHOWN]!r})"
        )
    if training:
        return Encoded(features, lambda _: {}, notes)
    assert task.labels is not None
    names = task.labels
    untagged = "O" if "O" in names else names[0]
    order = by_length(features)

    def score(ids: Any) -> dict[str, float]:
        found = restored(ids, order)
        predicted = [
            [names[found[i, first[word]]] if word in first else untagged for word in range(len(row["tags"]))]
            for i, (row, first) in enumerate(zip(examples, firsts, strict=True))
        ]
        return tag_scores(task.metrics, [[names[tag] for tag in row["tags"]] for row in examples], predicted)

    return Encoded([features[index] for index in order], score, notes)


def _pieces(tokenizer: Any, texts: list[list[str]], length: int | None = None) -> list[Feature]:
    encoded = tokenizer(*texts, truncation=length is not None, max_length=length, verbose=False)
    return [{name: values[index] for name, values in encoded.items()} for index in range(len(texts[0]))]


def _short(row: Example) -> str:
    text = f"{row['text']} {row.get('text2', '')}".strip()
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
