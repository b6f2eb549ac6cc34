"""Rows of question answering, checked: ids that are there once, and answers that stand in their contexts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.progress import counted
from electra_scale.finetune.tasks.rows import Rows
from electra_scale.finetune.tasks.task import Task


def question_examples(part: Rows, task: Task, split: str, notes: list[str]) -> list[dict[str, Any]]:
    """``id``, ``question``, ``context`` and ``answers`` (pairs of text and start; none: the question has no answer).

    Questions without an answer are left out where the task has none, and ``notes`` gets a sentence about it.

    Raises:
        UserError: an id occurs twice, a text or an answer is not what it should be, or no row is left.
    """
    columns, found = task.columns, []
    seen: dict[str, int] = {}
    left_out = []
    for index, row in enumerate(part.rows):
        where = part.name(index)
        texts: dict[str, str] = {}
        for role in ("question", "context"):
            value = row.get(columns[role])
            if not isinstance(value, str) or not value.strip():
                raise UserError(f"{where}: {columns[role]} must be a text that is not empty, not {str(value)[:40]!r}")
            texts[role] = value
        # A column of ids is not needed.
        name = str(row.get(columns.get("id", "id"), f"row-{index + 1}"))
        if name in seen:
            raise UserError(f"{where} has the id {name!r} of row {seen[name] + 1}; give each question an id of its own")
        seen[name] = index
        answers = _answers(row, columns["answers"], where)
        if answers is None:
            if split == "train":
                raise UserError(f"{where} has no answers to learn from")
            answers = []
        for text, start in answers:
            if texts["context"][start : start + len(text)] != text:
                raise UserError(
                    f"{where}: the answer {text[:40]!r} does not stand at character {start} of its context"
                    + (" (it stands elsewhere)" if text in texts["context"] else "")
                    + "; correct answer_start or remove the row"
                )
        if not answers and not task.unanswerable:
            left_out.append(name)
            continue
        found.append({"id": name, **texts, "answers": answers})
    if left_out:
        notes.append(
            f"{counted(len(left_out), 'question')} without an answer left out of {part.where} (such as {left_out[0]}); "
            "squad_v2 takes them"
        )
    if not found:
        raise UserError(f"{part.where} has no question with an answer; squad_v2 takes questions without one")
    return found


def _answers(row: Mapping[str, Any], column: str, where: str) -> list[tuple[str, int]] | None:
    if row.get("is_impossible") is True:
        return []
    value = row[column]
    if value is None:
        return None
    if isinstance(value, list):
        if not all(isinstance(part, Mapping) for part in value):
            raise UserError(f"{where}: {column} must hold text and answer_start")
        value = {key: [part.get(key) for part in value] for key in ("text", "answer_start")}
    texts, starts = (value.get(key) if isinstance(value, Mapping) else None for key in ("text", "answer_start"))
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise UserError(f"{where}: {column} must hold text and answer_start, two lists of equal length")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip() or not isinstance(start, int) or start < 0:
            raise UserError(f"{where}: {column} has {str(text)[:40]!r} at {start!r}; give a text and where it starts")
    return list(zip(texts, starts, strict=True))
