"""Exported networks from their folders alone: no hub is asked, and what is wrong is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from data_pipeline.errors import UserError, first_line
from data_pipeline.tokenize.panics import panics_as_errors


def open_network(folder: Path, kind: Any, network: str) -> tuple[Any, Any]:
    """Tokenizer and model of an exported network, in evaluation mode.

    ``kind`` is its class of transformers, and ``network`` what messages call it. Raises UserError for a folder without
    it, or with one that can't be loaded or does not go with its tokenizer.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        # transformers would make up a tokenizer of five tokens.
        raise UserError(f"{folder} holds no {network} with its tokenizer; make one with electra-scale export")
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        if config.model_type != "electra":
            raise UserError(f"{folder} holds a model of type {config.model_type}; give what electra-scale export wrote")
        with panics_as_errors():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        model, info = kind.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except UserError:
        raise
    except Exception as error:  # transformers and what it stands on have no common error
        raise UserError(
            f"{folder} holds no {network} that can be loaded ({first_line(error)}); export it again"
        ) from error
    # The scores are made with the embeddings, whose weights are in the file once.
    missing = sorted(set(info["missing_keys"]) - {"generator_lm_head.weight"})
    if missing:
        raise UserError(f"{folder} holds no {network}: it lacks {len(missing)} weights, such as {missing[0]}")
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"{folder} holds a tokenizer of {len(tokenizer)} tokens and a {network} for {config.vocab_size}; "
            "export it again"
        )
    return tokenizer, model.eval()
