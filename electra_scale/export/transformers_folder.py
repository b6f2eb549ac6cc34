"""Folders of transformers, opened from their files alone: no hub is asked, no code in them runs, errors are a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from data_pipeline.errors import UserError, first_line
from data_pipeline.tokenize.panics import panics_as_errors
from electra_scale.model.architectures.architecture import Network, architecture_of_type

_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""Files of which each makes a tokenizer. Without one of them transformers makes up a tokenizer of five tokens."""


def quiet() -> None:
    """No bars and no warnings of transformers from here on; what matters of them is an error of ours."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def read_config(folder: Path, name: str) -> Any:
    """The configuration in a folder, which messages call ``name``. Raises UserError if there is none to be read."""
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged file gives whatever its content leads to
        raise UserError(f"{name} holds no model of transformers that can be opened ({first_line(error)})") from error


def class_of(config: Any, network: Network) -> Any:
    """The class of transformers that opens a folder with this configuration as a network of an export.

    None for an architecture that is none of ours, and for a discriminator whose head tells more than one thing.
    """
    found = architecture_of_type(config.model_type)
    if found is None:
        return None
    name = found.hugging_face[network]
    if name.endswith("ForTokenClassification") and config.num_labels != 1:
        return None
    return getattr(transformers, name)


def detection(output: Any) -> Tensor:
    """Logits (B,S) that tokens were replaced, from what a model of a discriminator's class gives."""
    logits: Tensor = output.logits
    return logits.flatten(1)


def has_tokenizer(folder: Path) -> bool:
    """Whether there is a file that makes a tokenizer."""
    return any((folder / file).is_file() for file in _TOKENIZER_FILES)


def read_tokenizer(folder: Path, name: str, **settings: Any) -> Any:
    """The tokenizer in a folder. Raises UserError if there is none, or none that can be read."""
    if not has_tokenizer(folder):
        raise UserError(
            f"{name} holds no tokenizer ({', '.join(_TOKENIZER_FILES)}); copy there the one that the model was trained "
            "with"
        )
    try:
        with panics_as_errors():
            return AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, **settings
            )
    except Exception as error:  # a damaged file gives whatever its content leads to
        raise UserError(f"the tokenizer of {name} cannot be read ({first_line(error)}); restore it") from error


def read_weights(folder: Path, name: str, kind: Any, what: str, **settings: Any) -> tuple[Any, Mapping[str, Any]]:
    """A model of transformers' class ``kind``, which messages call ``what``, and what loading tells of its weights.

    What the file lacks is drawn from the global random state, which stays as it was. Raises UserError if the weights
    cannot be loaded.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            model, info = kind.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, output_loading_info=True, **settings
            )
    except Exception as error:  # transformers and what it stands on have no common error
        raise UserError(f"{name} cannot be loaded as {what} ({first_line(error)}); restore its files") from error
    return model, info


def drawn_anew(model: nn.Module, missing: Any) -> list[str]:
    """Weights that a file lacks and that no other weight decides, as it does tied ones; poolers don't count."""
    weights: dict[str, Tensor] = model.state_dict(keep_vars=True)
    read = {weight.data_ptr() for name, weight in weights.items() if name not in missing}
    return sorted(
        name for name in missing if name in weights and weights[name].data_ptr() not in read and "pooler." not in name
    )


def require_fit(model: Any, tokenizer: Any, name: str) -> None:
    """Raises UserError if the tokenizer gives ids that the model has no embedding for."""
    rows = model.get_input_embeddings().num_embeddings
    vocabulary = tokenizer.get_vocab()
    token = max(vocabulary, key=lambda token: vocabulary[token], default=None)
    if token is None:
        raise UserError(f"the tokenizer of {name} has no tokens; restore it")
    if vocabulary[token] >= rows:
        raise UserError(
            f"the tokenizer of {name} does not fit the model: {token!r} has id {vocabulary[token]:,}, the model has "
            f"{rows:,} embeddings; take the tokenizer that the model was trained with"
        )
