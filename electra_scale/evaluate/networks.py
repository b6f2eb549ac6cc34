"""Networks to evaluate, as transformers opens them; one whose head is not in its checkpoint is never scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, ElectraForPreTraining
from transformers.utils import logging

from data_pipeline.errors import UserError, first_line
from electra_scale.model.hf import TOKENIZER_FILES


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
    kind = _config(name, folder).model_type
    if kind != "electra":
        raise UserError(
            f"{name} is a model of type {kind}, which has no head that tells original tokens from replaced ones; "
            "evaluate it by its masked-token predictions (--pairs-by generator, --by generator), or with --linear"
        )
    return _open(name, folder, ElectraForPreTraining, "has no head that tells original tokens from replaced ones")


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


def _config(name: str, folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged file gives whatever its content leads to
        raise UserError(
            f"cannot read the configuration of {name} ({first_line(error)}); restore config.json"
        ) from error


def _open(name: str, folder: Path, kind: Any, without: str, **settings: Any) -> Network:
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    config = _config(name, folder)
    if not any((folder / file).is_file() for file in (*TOKENIZER_FILES, "tokenizer.model")):
        # transformers would make up a tokenizer of five tokens.
        raise UserError(f"{name} has no tokenizer ({folder}); add tokenizer.json to the folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        # Heads that are not in the file are drawn from the global random state; leave that as it was.
        with torch.random.fork_rng(devices=[]):
            model, info = kind.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, output_loading_info=True, **settings
            )
    except Exception as error:  # transformers and what it stands on have no common error
        raise UserError(f"{name} can't be opened as {_words(kind)} ({first_line(error)}); export it again") from error
    missing = _drawn_anew(model, info["missing_keys"])
    if missing:
        raise UserError(
            f"{name} {without}: its checkpoint lacks {len(missing)} weights of {type(model).__name__}, such as "
            f"{missing[0]}, and random ones would be scored; name another model, or another probe"
        )
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer of {name} has {len(tokenizer):,} tokens, its model {config.vocab_size:,}: they do not "
            "belong together; restore the tokenizer that the model was trained with"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    longest = min(int(tokenizer.model_max_length), int(getattr(config, "max_position_embeddings", 1 << 30)))
    return Network(name, tokenizer, model.float().eval().to(device), device, longest)


def _drawn_anew(model: nn.Module, missing: Any) -> list[str]:
    """Missing weights that no other weight decides, as it does tied ones; poolers, unused here, don't count."""
    weights: dict[str, Tensor] = model.state_dict(keep_vars=True)
    read = {weight.data_ptr() for name, weight in weights.items() if name not in missing}
    return sorted(
        name for name in missing if name in weights and weights[name].data_ptr() not in read and "pooler." not in name
    )


def _words(kind: Any) -> str:
    return {
        "ElectraForPreTraining": "a discriminator",
        "AutoModelForMaskedLM": "a masked language model",
        "AutoModel": "an encoder",
    }[kind.__name__]
