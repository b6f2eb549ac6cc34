"""The encoder of a folder, with the head that its own class of transformers has for a kind of task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    set_seed,
)

from data_pipeline.errors import UserError, first_line
from data_pipeline.tokenize.panics import panics_as_errors
from electra_scale.export.transformers_folder import read_config, read_tokenizer, read_weights
from electra_scale.finetune.layerwise import distances
from electra_scale.finetune.recipe import HEAD_DROPOUT, FineTuningRecipe
from electra_scale.finetune.tasks.task import Kind, Task

_CLASSES: Mapping[Kind, Any] = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "tagging": AutoModelForTokenClassification,
    "question-answering": AutoModelForQuestionAnswering,
}

_UNBOUNDED = 1_000_000
"""From here on a tokenizer's ``model_max_length`` means that it has none."""


def open_tokenizer(folder: Path, name: str, kind: Kind) -> Any:
    """The tokenizer in a folder, as a task of a kind needs it.

    Raises:
        UserError: there is none, or it lacks the tokens that mark a text's start, end and padding.
    """
    tokenizer = read_tokenizer(folder, name)
    if kind == "tagging" and not _takes_words(tokenizer, name):
        # Byte-level tokenizers take words only if they may put a blank before each.
        tokenizer = read_tokenizer(folder, name, add_prefix_space=True)
    missing = [token for token in ("cls_token", "sep_token", "pad_token") if getattr(tokenizer, token, None) is None]
    if missing:
        raise UserError(
            f"the tokenizer of {name} has no {', no '.join(missing)}, which an encoder's tokenizer needs; take the one "
            "that the model was trained with"
        )
    return tokenizer


def _takes_words(tokenizer: Any, name: str) -> bool:
    try:
        with panics_as_errors():
            tokenizer([["a", "b"]], is_split_into_words=True)
    except (AssertionError, ValueError):
        return False
    except Exception as error:  # settings of a damaged tokenizer may be used only here
        raise UserError(f"the tokenizer of {name} cannot be used ({first_line(error)}); restore it") from error
    return True


def build_model(
    folder: Path, name: str, task: Task, recipe: FineTuningRecipe | None, seed: int, random: bool = False
) -> Any:
    """A model with the task's head, in fp32; the head is drawn from ``seed``, and all of it if it is ``random``.

    Raises:
        UserError: the model has no such head, lacks weights of its encoder, or cannot be loaded.
    """
    config = read_config(folder, name)
    made_for = (config.architectures or [""])[0]
    _set_labels(config, task)
    _set_dropout(config, None if recipe is None else recipe.dropout)
    kind = _CLASSES[task.kind]
    set_seed(seed)
    what = f"a model for {task.kind}"
    if random:
        try:
            return kind.from_config(config, trust_remote_code=False).float()
        except Exception as error:  # a damaged configuration gives whatever its content leads to
            raise UserError(f"{name} cannot be made as {what} ({first_line(error)})") from error
    # A checkpoint that was fine-tuned before may have a head of another size, which is drawn anew.
    model, info = read_weights(folder, name, kind, what, config=config, ignore_mismatched_sizes=True)
    below = distances(model)
    wrong = [key if isinstance(key, str) else key[0] for key in (*info["missing_keys"], *info["mismatched_keys"])]
    lacking = sorted(key for key in wrong if below.get(key, 0) > 0)
    if lacking:
        raise UserError(
            f"{name} lacks {len(lacking)} weights of its encoder, or has them in another size (first: {lacking[0]}); "
            "give the folder of a whole checkpoint"
        )
    own = {name for name, part in model.named_children() if below.get(f"{name}.weight", 1) == 0}
    if made_for != type(model).__name__ and own and not own.intersection(key.split(".")[0] for key in wrong):
        # The output layer of another task that has as many outputs.
        set_seed(seed)
        fresh = dict(kind.from_config(config, trust_remote_code=False).named_children())
        for name in own:
            model.get_submodule(name).load_state_dict(fresh[name].state_dict())
    return model.float()


def _set_labels(config: Any, task: Task) -> None:
    if task.kind == "question-answering":
        # Of start and end, whatever the checkpoint's own head told.
        config.num_labels = 2
        return
    if task.kind == "regression":
        config.num_labels, config.problem_type = 1, "regression"
        return
    assert task.labels is not None
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {label: index for index, label in enumerate(task.labels)}
    if task.kind == "classification":
        config.problem_type = "single_label_classification"


def _set_dropout(config: Any, dropout: float | None) -> None:
    for name, value in list(vars(config).items()):
        if "dropout" not in name or isinstance(value, bool) or not (value is None or isinstance(value, float | int)):
            continue
        if dropout is not None:
            setattr(config, name, dropout)
        elif name == "classifier_dropout":
            setattr(config, name, HEAD_DROPOUT)


def width_of(model: Any) -> int:
    """The width of its hidden states."""
    return int(model.config.hidden_size)


def room_of(model: Any, tokenizer: Any) -> int | None:
    """How many pieces the model takes, None without a bound."""
    bounds = []
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        table = next((part for name, part in model.named_modules() if name.endswith("position_embeddings")), None)
        first = getattr(table, "padding_idx", None)
        # RoBERTa counts its positions from behind the one for padding.
        bounds.append(positions if first is None else positions - first - 1)
    if tokenizer.model_max_length < _UNBOUNDED:
        bounds.append(int(tokenizer.model_max_length))
    return min(bounds, default=None)
