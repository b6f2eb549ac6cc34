"""From rows to checked examples: each is what its task says, or a line names the row and what is wrong with it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.progress import counted
from data_pipeline.settings import nearest
from electra_scale.finetune.tasks.questions import question_examples
from electra_scale.finetune.tasks.rows import Rows
from electra_scale.finetune.tasks.task import OPTIONAL_ROLES, Task

Example = dict[str, Any]
"""One row by roles: ``text``, ``text2``, ``label`` (id or number); ``tokens``, ``tags`` (ids); ``id``, ``question``,
``context``, ``answers`` (pairs of text and start)."""

_MOST_CLASSES = 1000


@dataclass(frozen=True)
class Examples:
    """A task whose labels are known, its examples by split, and sentences about what was left out or changed."""

    task: Task
    splits: Mapping[str, Sequence[Example]]
    notes: Sequence[str]


def checked_examples(task: Task, rows: Mapping[str, Rows]) -> Examples:
    """The examples of all splits in ``rows``, of which ``train`` and ``task.scored_on`` must be there.

    Raises:
        UserError: a split is empty, a column is missing, or a row is not what the task needs.
    """
    for split in ("train", task.scored_on):
        if not rows[split].rows:
            raise UserError(f"{rows[split].where} is empty; the {split} split of {task.name} needs rows")
    for part in rows.values():
        _require_columns(task, part)
    if task.kind == "question-answering":
        notes: list[str] = []
        splits = {split: question_examples(part, task, split, notes) for split, part in rows.items() if part.rows}
        return Examples(task, splits, notes)
    if task.kind == "tagging":
        return _tagging(task, rows)
    if task.kind == "regression":
        return Examples(task, {split: _regression(task, part) for split, part in rows.items() if part.rows}, [])
    return _classification(task, rows)


def _require_columns(task: Task, part: Rows) -> None:
    if not part.rows:
        return
    for role, column in task.columns.items():
        optional = role in OPTIONAL_ROLES and role == column
        missing = next((index for index, row in enumerate(part.rows) if column not in row), None)
        if missing is not None and not optional:
            there = list(part.rows[missing])
            raise UserError(
                f"{part.name(missing)} has no column {column!r} for {role}; it has {', '.join(map(str, there))}"
                f" ({nearest(column, [str(name) for name in there])}); name yours with --columns {role}=NAME"
                if there
                else f"{part.name(missing)} holds no column at all"
            )


def text_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """The text in a column of a row; raises UserError if it is something else."""
    value = row.get(column)
    if not isinstance(value, str):
        raise UserError(f"{where}: {column} must be text, not {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {column} is not text in UTF-8; write it in UTF-8") from error
    return value


def _texts(task: Task, row: Mapping[str, Any], where: str) -> Example:
    return {role: text_of(row, task.columns[role], where) for role in ("text", "text2") if role in task.columns}


def _regression(task: Task, part: Rows) -> list[Example]:
    column, found = task.columns["label"], []
    for index, row in enumerate(part.rows):
        where, value = part.name(index), row[column]
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(
                f"{where}: {column} must be a finite number, not {_shown(value)}; correct or remove the row"
            )
        if task.bounds and not task.bounds[0] <= number <= task.bounds[1]:
            raise UserError(
                f"{where}: {column} is {number:g}, outside {task.bounds[0]:g} to {task.bounds[1]:g} of {task.name}"
            )
        found.append({**_texts(task, row, where), "label": number})
    return found


def _classification(task: Task, rows: Mapping[str, Rows]) -> Examples:
    column = task.columns["label"]
    values = {split: [_label(row[column], part, i) for i, row in enumerate(part.rows)] for split, part in rows.items()}
    names = task.labels or _classes_of_train(column, values["train"], rows["train"])
    ids = {name: index for index, name in enumerate(names)}
    splits, notes = {}, []
    for split, part in rows.items():
        if not part.rows:
            continue
        splits[split] = [
            {**_texts(task, row, part.name(i)), "label": _id(values[split][i], ids, task, part, i, column)}
            for i, row in enumerate(part.rows)
        ]
    seen = {example["label"] for example in splits["train"]}
    notes += _unseen(task, names, seen, ((s, (e["label"] for e in examples)) for s, examples in splits.items()), rows)
    return Examples(dataclasses.replace(task, labels=tuple(names)), splits, notes)


def _label(value: Any, part: Rows, index: int) -> str:
    """A class as text: whole numbers without a decimal point."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int) or (isinstance(value, str) and value.strip()):
        return str(value).strip()
    raise UserError(
        f"{part.name(index)}: a class must be a whole number or a name, not {_shown(value)}; correct or remove the row"
        + (", or give --task regression for numbers" if isinstance(value, float) and math.isfinite(value) else "")
    )


def _classes_of_train(column: str, values: Sequence[str], part: Rows) -> tuple[str, ...]:
    found = set(values)
    if len(found) == 1:
        raise UserError(f"{part.where} has one class only, {column} {values[0]!r}; there is nothing to tell apart")
    if len(found) > _MOST_CLASSES:
        raise UserError(
            f"{part.where} has {len(found):,} classes in {column} (such as {values[0]!r}), more than "
            f"{_MOST_CLASSES:,}; is it the right column? For numbers give --task regression"
        )
    numbers = all(value.removeprefix("-").isdecimal() for value in found)
    return tuple(sorted(found, key=int) if numbers else sorted(found))


def _id(value: str, ids: Mapping[str, int], task: Task, part: Rows, index: int, column: str) -> int:
    if value in ids:
        return ids[value]
    if task.labels is not None:
        if value.isdecimal() and int(value) < len(ids):
            return int(value)
        known = ", ".join(f"{number} {name}" for name, number in ids.items())
        raise UserError(f"{part.name(index)}: {column} is {value!r}, which {task.name} does not have; it has {known}")
    raise UserError(
        f"{part.name(index)}: class {value!r} of {column} does not occur in train, so it cannot be learned; train has "
        f"{_list(ids)}"
    )


def _unseen(
    task: Task,
    names: Sequence[str],
    seen: set[int],
    splits: Iterable[tuple[str, Iterable[int]]],
    rows: Mapping[str, Rows],
) -> list[str]:
    """A sentence for each split that has classes of the task which train lacks."""
    notes = []
    for split, labels in splits:
        new = [label for label in labels if label not in seen]
        if new:
            notes.append(
                f"{counted(len(new), 'label')} of {rows[split].where} such as {names[new[0]]} occur nowhere in train, "
                "so they can't be learned"
            )
    return notes


def _tagging(task: Task, rows: Mapping[str, Rows]) -> Examples:
    tokens, tags = task.columns["tokens"], task.columns["tags"]
    read: dict[str, list[Example]] = {}
    for split, part in rows.items():
        if part.rows:
            read[split] = [_tagged(row, tokens, tags, part.name(i)) for i, row in enumerate(part.rows)]
    empty = {split: sum(not example["tokens"] for example in examples) for split, examples in read.items()}
    read = {split: [example for example in examples if example["tokens"]] for split, examples in read.items()}
    for split in ("train", task.scored_on):
        if not read[split]:
            raise UserError(f"{rows[split].where} has no row with tokens")
    notes = [
        f"{counted(number, 'row')} without tokens left out of {rows[split].where}"
        for split, number in empty.items()
        if number
    ]
    in_train = {tag for example in read["train"] for tag in example["tags"]}
    names = task.labels or tuple(sorted(in_train, key=lambda tag: (tag != "O", tag)))
    if len(names) < 2:
        raise UserError(f"{rows['train'].where} has one tag only, {names[0]!r}; there is nothing to tell apart")
    ids = {name: index for index, name in enumerate(names)}
    for split, examples in read.items():
        for index, example in enumerate(examples):
            if task.labels is not None:
                example["tags"] = [_name_of(tag, ids, names) for tag in example["tags"]]
            for tag in example["tags"]:
                if tag not in ids:
                    reason = (
                        f"which {task.name} does not have; it has {_list(ids)}"
                        if task.labels is not None
                        else f"which does not occur in train, so it cannot be learned; train has {_list(ids)}"
                    )
                    raise UserError(f"{rows[split].name(index)}: tag {tag!r}, {reason}")
            example["tags"] = [ids[tag] for tag in example["tags"]]
    seen = {tag for example in read["train"] for tag in example["tags"]}
    notes += _unseen(task, names, seen, ((s, (t for e in es for t in e["tags"])) for s, es in read.items()), rows)
    metrics = task.metrics if _marks_chunks(names) else ("accuracy",)
    return Examples(dataclasses.replace(task, labels=names, metrics=metrics), read, notes)


def _name_of(tag: str, ids: Mapping[str, int], names: Sequence[str]) -> str:
    """The tag, or that of its number where rows hold numbers."""
    return names[int(tag)] if tag not in ids and tag.isdecimal() and int(tag) < len(names) else tag


def _tagged(row: Mapping[str, Any], tokens: str, tags: str, where: str) -> Example:
    words, marks = (_list_of_texts(row[column], column, where) for column in (tokens, tags))
    if len(words) != len(marks):
        raise UserError(f"{where} has {counted(len(words), 'token')} and {counted(len(marks), 'tag')}; give as many")
    return {"tokens": words, "tags": marks}


def _list_of_texts(value: Any, column: str, where: str) -> list[str]:
    if isinstance(value, str):
        # CSV has no lists; blanks part words in it.
        return value.split()
    if not isinstance(value, list) or not all(isinstance(part, str | int) for part in value):
        raise UserError(f"{where}: {column} must be a list of texts, not {_shown(value)}")
    return [str(part) for part in value]


def _marks_chunks(names: Iterable[str]) -> bool:
    """Whether tags say where chunks begin, as B-NP and I-NP do; tags of single words (parts of speech) do not."""
    return all(name == "O" or name[:2] in ("B-", "I-", "E-", "S-", "L-", "U-") for name in names)


def _list(ids: Iterable[str], most: int = 12) -> str:
    names = list(ids)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
