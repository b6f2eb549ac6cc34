"""Exported networks, as their classes of transformers open them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from electra_scale.export.transformers_folder import (
    class_of,
    drawn_anew,
    read_config,
    read_tokenizer,
    read_weights,
    require_fit,
)
from electra_scale.model.architectures.architecture import Network


def open_network(folder: Path, network: Network) -> tuple[Any, Any]:
    """Tokenizer and model of an exported network, in evaluation mode.

    Raises UserError for a folder without it, or with one that can't be loaded or does not go with its tokenizer.
    """
    name = str(folder)
    config = read_config(folder, name)
    kind = class_of(config, network)
    if kind is None:
        raise UserError(
            f"{folder} holds a model of type {config.model_type} that is no {network}; give what electra-scale export "
            "wrote"
        )
    tokenizer = read_tokenizer(folder, name)
    model, info = read_weights(folder, name, kind, f"a {network}", use_safetensors=True)
    missing = drawn_anew(model, info["missing_keys"])
    if missing:
        raise UserError(f"{folder} holds no {network}: it lacks {len(missing)} weights, such as {missing[0]}")
    require_fit(model, tokenizer, name)
    return tokenizer, model.eval()
