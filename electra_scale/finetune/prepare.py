"""All that comes before training: a model and a task are read, checked against each other, and made ready to train."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import sha256_of
from data_pipeline.progress import counted
from data_pipeline.tokenize.panics import panics_as_errors
from electra_scale.export.named_model import NamedModel
from electra_scale.export.transformers_folder import require_fit
from electra_scale.finetune.encode import Encoded, encode_tags, encode_texts
from electra_scale.finetune.encoder import build_model, open_tokenizer, room_of, width_of
from electra_scale.finetune.recipe import Choices, FineTuningRecipe, micro_batches, recipe_of
from electra_scale.finetune.spans import encode_questions
from electra_scale.finetune.tasks.examples import Example, Examples, checked_examples
from electra_scale.finetune.tasks.rows import Rows, Source
from electra_scale.finetune.tasks.task import Task

_HELD_OUT = 0.1
"""Share of train that decides when to stop, for a task without a validation split of its own."""

_WEIGHTS = ("*.safetensors", "*.bin", "config.json")


@dataclass(frozen=True)
class Prepared:
    """A task for one model: encoded splits (``scored`` by the suffix of their metrics), and what identifies both."""

    model: NamedModel
    task: Task
    recipe: FineTuningRecipe
    choices: Choices
    tokenizer: Any
    train: Encoded
    stopped_by: Encoded | None
    scored: Mapping[str, Encoded]
    notes: Sequence[str]
    identity: Mapping[str, Any]

    def build(self, seed: int) -> Any:
        """A new model for a seed, head and random weights drawn from it."""
        return build_model(self.model.folder, self.model.name, self.task, self.recipe, seed, self.model.random)


def read_examples(task: Task, source: Source, patience: int | None) -> Examples:
    """The splits of a task that this run uses, checked; with ``patience`` also the one that early stopping looks at.

    Raises:
        UserError: see :meth:`Source.read` and :func:`checked_examples`.
    """
    rows = source.read(task)
    missing = next((split for split in ("train", task.scored_on) if split not in rows), None)
    if missing is not None:
        there = ", ".join(rows) or "nothing"
        raise UserError(f"task {task.name} needs a {missing} split and has {there}; add it, or choose --split")
    used = ["train", task.scored_on, *(split for split in task.further.values() if rows.get(split))]
    if patience is not None and rows.get("validation"):
        used.append("validation")
    _refuse_hidden(task, rows)
    examples = checked_examples(task, {split: rows[split] for split in dict.fromkeys(used) if split in rows})
    if patience is None or "validation" in examples.splits:
        return examples
    train = list(examples.splits["train"])
    held_out = max(1, round(_HELD_OUT * len(train)))
    if held_out >= len(train):
        raise UserError(f"{rows['train'].where} is too small for early stopping; leave --patience out")
    order = np.random.default_rng(0).permutation(len(train))
    splits = {
        **examples.splits,
        "train": [train[i] for i in sorted(order[held_out:])],
        "validation": [train[i] for i in sorted(order[:held_out])],
    }
    note = f"{task.name} has no validation split, so {counted(held_out, 'row')} of train decide when to stop"
    return dataclasses.replace(examples, splits=splits, notes=[*examples.notes, note])


def _refuse_hidden(task: Task, rows: Mapping[str, Rows]) -> None:
    part = rows.get(task.scored_on)
    column = task.columns.get("label")
    if part is not None and column and part.rows and all(str(row.get(column)) == "-1" for row in part.rows):
        raise UserError(f"{part.where} hides its labels (all are -1); score on another split with --split validation")


def prepare(model: NamedModel, examples: Examples, choices: Choices, ranks: int) -> Prepared:
    """Encode a task for a model.

    Raises:
        UserError: the model or its tokenizer can't be opened, or they don't fit each other or the task.
    """
    task = examples.task
    tokenizer = open_tokenizer(model.folder, model.name, task.kind)
    built = build_model(model.folder, model.name, task, None, 0, model.random)
    require_fit(built, tokenizer, model.name)
    recipe, notes = recipe_of(choices, task, width_of(built), room_of(built, tokenizer))
    if model.note is not None:
        notes.append(model.note)
    micro_batches(recipe.batch, ranks, choices.most_per_device)
    taken = set(inspect.signature(built.forward).parameters)

    def encoded(split: str, training: bool = False) -> Encoded:
        encode = {"tagging": encode_tags, "question-answering": encode_questions}.get(task.kind, encode_texts)
        try:
            with panics_as_errors():
                part = encode(task, examples.splits[split], tokenizer, recipe.length, training)
        except ValueError as error:
            raise UserError(
                f"the tokenizer of {model.name} fails on the {split} split ({error}); restore it"
            ) from error
        for feature in part.features:
            # Some tokenizers give segments that some models do not take.
            for key in set(feature) & {"token_type_ids"} - taken:
                del feature[key]
        notes.extend(f"{split}: {note}" for note in part.notes)
        return part

    train = encoded("train", training=True)
    scored = {"": encoded(task.scored_on)}
    scored |= {suffix: encoded(split) for suffix, split in task.further.items() if split in examples.splits}
    stopped_by = None
    if recipe.patience is not None:
        stopped_by = scored[""] if task.scored_on == "validation" else encoded("validation")
    unknown = _unknown_share(train, tokenizer)
    if unknown > 0.1:
        notes.append(
            f"{unknown:.0%} of the pieces of train are unknown to the tokenizer; is it one of the right language?"
        )
    return Prepared(
        model=model,
        task=task,
        recipe=recipe,
        choices=choices,
        tokenizer=tokenizer,
        train=train,
        stopped_by=stopped_by,
        scored=scored,
        notes=[*examples.notes, *notes],
        identity={
            "model": model.name,
            "step": model.step,
            "weights": _weights_of(model),
            "task": task.name,
            "labels": list(task.labels) if task.labels else None,
            "split": task.scored_on,
            "rows": {split: len(part) for split, part in examples.splits.items()},
            "data": _fingerprint(examples.splits),
            **recipe.settings(),
            "bf16": choices.bf16,
        },
    )


def _unknown_share(part: Encoded, tokenizer: Any) -> float:
    if tokenizer.unk_token_id is None:
        return 0.0
    pieces = sum(len(feature["input_ids"]) for feature in part.features)
    return sum(feature["input_ids"].count(tokenizer.unk_token_id) for feature in part.features) / max(1, pieces)


def _weights_of(model: NamedModel) -> str:
    """A hash of the files that weights come from; of random weights the configuration alone."""
    patterns = _WEIGHTS[-1:] if model.random else _WEIGHTS
    files = sorted(path for pattern in patterns for path in model.folder.glob(pattern))
    return hashlib.sha256("".join(sha256_of(path) for path in files).encode()).hexdigest()[:16]


def _fingerprint(splits: Mapping[str, Sequence[Example]]) -> str:
    digest = hashlib.sha256()
    for split, examples in splits.items():
        digest.update(split.encode())
        for example in examples:
            digest.update(json.dumps(example).encode())
    return digest.hexdigest()[:16]
