"""Networks to evaluate, as transformers opens them; one whose head is not in its checkpoint is never scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForMaskedLM

from data_pipeline.errors import UserError
from electra_scale.export.transformers_folder import (
    class_of,
    drawn_anew,
    quiet,
    read_config,
    read_tokenizer,
    read_weights,
    require_fit,
)


@dataclass
class Network:
    """A network with its tokenizer, on a device, in evaluation mode.

    Attributes:
        name: the model as a user named it.
        longest: tokens that a text may have, [CLS] and [SEP] included.
    """

    name: str
    tokenizer: Any
    model: Any
    device: torch.device
    longest: int


def open_discriminator(name: str, folder: Path) -> Network:
    """The discriminator in a folder of transformers.

    Raises UserError if it can't be opened, or has no trained head that tells original tokens from replaced ones.
    """
    config = read_config(folder, name)
    kind = class_of(config, "discriminator")
    if kind is None:
        raise UserError(
            f"{name} is a model of type {config.model_type}, which has no head that tells original tokens from "
            "replaced ones; evaluate it by its masked-token predictions (--pairs-by generator, --by generator), or "
            "with --linear"
        )
    return _open(name, folder, kind, "has no head that tells original tokens from replaced ones")


def open_masked_lm(name: str, folder: Path) -> Network:
    """The masked language model in a folder: a generator, a BERT, a ModernBERT.

    Raises UserError if it can't be opened, or has no trained head over the vocabulary, or no mask token.
    """
    network = _open(name, folder, AutoModelForMaskedLM, "has no head that predicts masked tokens")
    if network.tokenizer.mask_token_id is None:
        raise UserError(f"the tokenizer of {name} has no mask token, so no token can be masked; choose another model")
    return network


def open_encoder(name: str, folder: Path) -> Network:
    """The encoder in a folder, without any head. Raises UserError if it can't be opened."""
    return _open(name, folder, AutoModel, "has no whole encoder", output_hidden_states=True)


def same_tokens(one: Network, other: Network) -> str | None:
    """None if two networks read the same tokens, else how their tokenizers differ, with an example."""
    ours, theirs = (network.tokenizer.get_vocab() for network in (one, other))
    found = sorted(token for token in {*ours, *theirs} if ours.get(token) != theirs.get(token))
    if not found:
        return None
    first = found[0]
    return (
        f"{len(found):,} tokens differ, such as {first!r}, which is "
        f"{ours.get(first, 'nothing')} in the one and {theirs.get(first, 'nothing')} in the other"
    )


def _open(name: str, folder: Path, kind: Any, without: str, **settings: Any) -> Network:
    quiet()
    tokenizer = read_tokenizer(folder, name)
    model, info = read_weights(folder, name, kind, _words(kind), **settings)
    missing = drawn_anew(model, info["missing_keys"])
    if missing:
        raise UserError(
            f"{name} {without}: its checkpoint lacks {len(missing)} weights of {type(model).__name__}, such as "
            f"{missing[0]}, and random ones would be scored; name another model, or another probe"
        )
    require_fit(model, tokenizer, name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    longest = min(int(tokenizer.model_max_length), int(getattr(model.config, "max_position_embeddings", 1 << 30)))
    return Network(name, tokenizer, model.float().eval().to(device), device, longest)


def _words(kind: Any) -> str:
    found = {"AutoModelForMaskedLM": "a masked language model", "AutoModel": "an encoder"}
    return found.get(kind.__name__, "a discriminator")
