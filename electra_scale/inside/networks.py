"""Exported networks, as transformers' classes for ELECTRA open them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from electra_scale.export.transformers_folder import drawn_anew, read_config, read_tokenizer, read_weights, require_fit


def open_network(folder: Path, kind: Any, network: str) -> tuple[Any, Any]:
    """Tokenizer and model of an exported network, in evaluation mode.

    ``kind`` is its class of transformers, and ``network`` what messages call it. Raises UserError for a folder without
    it, or with one that can't be loaded or does not go with its tokenizer.
    """
    name = str(folder)
    config = read_config(folder, name)
    if config.model_type != "electra":
        raise UserError(f"{folder} holds a model of type {config.model_type}; give what electra-scale export wrote")
    tokenizer = read_tokenizer(folder, name)
    model, info = read_weights(folder, name, kind, f"a {network}", use_safetensors=True)
    missing = drawn_anew(model, info["missing_keys"])
    if missing:
        raise UserError(f"{folder} holds no {network}: it lacks {len(missing)} weights, such as {missing[0]}")
    require_fit(model, tokenizer, name)
    return tokenizer, model.eval()
