"""Question answering: a context in overlapping windows, and from scores of starts and ends to the text of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import UserError
from data_pipeline.progress import counted
from electra_scale.finetune.encode import Encoded, Feature
from electra_scale.finetune.metrics import answer_scores, threshold_scores
from electra_scale.finetune.tasks.examples import Example
from electra_scale.finetune.tasks.task import Task

_LONGEST_QUESTION, _OVERLAP = 64, 128
"""Pieces: as in BERT's and ELECTRA's fine-tuning."""

_LONGEST_ANSWER, _BEAM = 30, 20

_LEAST_CONTEXT = 8
"""Pieces of context that a window must have room for."""

Offsets = list[tuple[int, int] | None]
"""Of each piece of a window, the characters of the context that it stands for; None: it is not of the context."""


def encode_questions(task: Task, examples: Sequence[Example], tokenizer: Any, length: int, training: bool) -> Encoded:
    """Windows of ``length`` pieces; in training with the pieces where the answer starts and ends, 0 for none.

    Raises:
        UserError: the tokenizer does not say where its pieces stand in a text, or no context fits into ``length``.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "the model's tokenizer does not say where its pieces stand in a text, which questions need; give a folder "
            "with tokenizer.json"
        )
    notes: list[str] = []
    special = tokenizer.num_special_tokens_to_add(pair=True)
    longest = min(_LONGEST_QUESTION, (length - special) // 2)
    if longest < 1 or length - special - longest < _LEAST_CONTEXT:
        raise UserError(f"{length} pieces are too few for a question and its context; give --length 64 or more")
    questions = _cut_questions([row["question"] for row in examples], tokenizer, longest, notes)
    encoded = tokenizer(
        questions,
        [row["context"] for row in examples],
        truncation="only_second",
        max_length=length,
        stride=min(_OVERLAP, (length - special - longest) // 2),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    owners = list(encoded["overflow_to_sample_mapping"])
    inputs = [name for name in encoded if name not in ("overflow_to_sample_mapping", "offset_mapping")]
    features: list[Feature] = []
    windows: list[Offsets] = []
    for index, owner in enumerate(owners):
        sides = encoded.sequence_ids(index)
        offsets: Offsets = [
            tuple(span) if side == 1 else None
            for span, side in zip(encoded["offset_mapping"][index], sides, strict=True)
        ]
        feature = {name: encoded[name][index] for name in inputs}
        if training:
            start, end = _target(offsets, examples[owner]["answers"])
            feature |= {"start_positions": start, "end_positions": end}
        features.append(feature)
        windows.append(offsets)
    if len(features) > len(examples):
        notes.append(f"{counted(len(examples), 'question')} give {len(features):,} windows of at most {length} pieces")
    if training:
        return Encoded(features, lambda _: {}, notes)

    def score(logits: Any) -> dict[str, float]:
        starts, ends = logits
        answers, margins = predicted_answers(examples, owners, windows, starts, ends)
        gold = [[text for text, _ in row["answers"]] for row in examples]
        if task.unanswerable and not all(gold):
            return threshold_scores(gold, answers, margins)
        pairs = [answer_scores(texts, answer) for texts, answer in zip(gold, answers, strict=True)]
        f1, exact = np.mean(pairs, axis=0)
        return {"f1": float(f1), "exact_match": float(exact)}

    return Encoded(features, score, notes)


def _cut_questions(questions: list[str], tokenizer: Any, longest: int, notes: list[str]) -> list[str]:
    """Questions of at most ``longest`` pieces: a longer one would leave its context no room."""
    offsets = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    long = [index for index, spans in enumerate(offsets) if len(spans) > longest]
    cut = list(questions)
    for index in long:
        cut[index] = questions[index][: offsets[index][longest - 1][1]]
    if long:
        notes.append(
            f"{counted(len(long), 'question')} of {len(questions):,} cut at {longest} pieces (such as "
            f"{questions[long[0]][:50]!r})"
        )
    return cut


def _target(offsets: Offsets, answers: Sequence[tuple[str, int]]) -> tuple[int, int]:
    """First and last piece of the first answer, (0, 0) if this window does not hold all of it."""
    if not answers:
        return 0, 0
    text, begin = answers[0]
    finish = begin + len(text)
    inside = [i for i, span in enumerate(offsets) if span is not None and span[0] < finish and span[1] > begin]
    if not inside:
        return 0, 0
    first, last = offsets[inside[0]], offsets[inside[-1]]
    assert first is not None
    assert last is not None
    whole = first[0] <= begin and last[1] >= finish
    return (inside[0], inside[-1]) if whole else (0, 0)


def predicted_answers(
    examples: Sequence[Example],
    owners: Sequence[int],
    windows: Sequence[Offsets],
    starts: NDArray[np.float32],
    ends: NDArray[np.float32],
) -> tuple[list[str], NDArray[np.float64]]:
    """The best text for each question, and the score of no answer less the best text's.

    A text starts and ends in one window, has at most 30 pieces, and both ends are among the window's 20 best. The score
    of no answer is that of the first piece, [CLS], in the window where it is least.

    Args:
        owners: for each window, the index of its question.
        windows: for each window, where its pieces stand.
        starts, ends: scores (N, S); columns beyond a window's pieces are ignored.
    """
    best = [("", -np.inf)] * len(examples)
    null = np.full(len(examples), np.inf)
    for window, (owner, offsets) in enumerate(zip(owners, windows, strict=True)):
        start, end = (scores[window, : len(offsets)].astype(np.float64) for scores in (starts, ends))
        null[owner] = min(null[owner], start[0] + end[0])
        inside = np.array([span is not None and span[1] > span[0] for span in offsets])
        firsts, lasts = (_best(np.where(inside, scores, -np.inf)) for scores in (start, end))
        pairs = start[firsts][:, None] + end[lasts][None]
        far = lasts[None] - firsts[:, None]
        pairs[(far < 0) | (far >= _LONGEST_ANSWER)] = -np.inf
        if not pairs.size or pairs.max() <= best[owner][1]:
            continue
        i, j = np.unravel_index(int(pairs.argmax()), pairs.shape)
        left, right = offsets[firsts[i]], offsets[lasts[j]]
        assert left is not None
        assert right is not None
        best[owner] = (examples[owner]["context"][left[0] : right[1]], float(pairs[i, j]))
    score = np.array([value for _, value in best])
    # A question without any candidate has no answer.
    return [text for text, _ in best], np.where(np.isfinite(score), null - score, np.finfo(np.float64).max)


def _best(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions of the greatest scores, at most the beam's number, of those that are finite."""
    order = np.argsort(-scores, kind="stable")[:_BEAM]
    return order[np.isfinite(scores[order])]
