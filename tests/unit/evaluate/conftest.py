"""Tiny models of three kinds over one vocabulary, and sentences that it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForTokenClassification,
)

from data_pipeline.tokenize.roles import SPECIAL_TOKENS
from data_pipeline.tokenize.tokenizer import save_tokenizer, wordpiece_tokenizer
from electra_scale.export.named_model import NamedModel

_TEXT = "a boat harbour in is it keeper light man men old saw see sees the they to walk walked walks ##s ."
WORDS = _TEXT.split()
SENTENCES = ["the old keeper walks to the harbour.", "a man sees it.", "they saw the boats in the light.", "it is old."]
SIZES: dict[str, Any] = {
    "vocab_size": len(SPECIAL_TOKENS) + len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
LONGEST = 16


def write(folder: Path, model: Any, words: list[str] | None = None, longest: int = LONGEST) -> Path:
    """A folder of transformers with weights that are far from zero, and the tokenizer of ``words``."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    tokens = [*SPECIAL_TOKENS, *(words or WORDS)]
    save_tokenizer(folder, wordpiece_tokenizer({token: index for index, token in enumerate(tokens)}, lowercase=True))
    for file in (folder / "tokenizer").iterdir():
        text = file.read_text()
        file.unlink()
        (folder / file.name).write_text(text.replace('"model_max_length": 512', f'"model_max_length": {longest}'))
    (folder / "tokenizer").rmdir()
    return folder


def electra() -> ElectraConfig:
    return ElectraConfig(embedding_size=8, max_position_embeddings=LONGEST, **SIZES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    modern = ModernBertConfig(max_position_embeddings=LONGEST, pad_token_id=0, cls_token_id=2, sep_token_id=3, **SIZES)
    detecting = ModernBertConfig(**{**modern.to_dict(), "num_labels": 1})
    return {
        "modern discriminator": write(root / "modern" / "d", ModernBertForTokenClassification(detecting)),
        "modern generator": write(root / "modern" / "g", ModernBertForMaskedLM(modern)),
        "discriminator": write(root / "electra" / "discriminator", ElectraForPreTraining(electra())),
        "generator": write(root / "electra" / "generator", ElectraForMaskedLM(electra())),
        "bert": write(root / "bert", BertForMaskedLM(BertConfig(max_position_embeddings=LONGEST, **SIZES))),
        "modernbert": write(root / "modernbert", ModernBertForMaskedLM(modern)),
    }


@pytest.fixture(scope="module", params=["electra", "modern"])
def pair_model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> NamedModel:
    """A discriminator and a generator of each architecture."""
    prefix = "" if request.param == "electra" else "modern "
    return NamedModel("pair", folders[f"{prefix}discriminator"], folders[f"{prefix}generator"])


@pytest.fixture(scope="module")
def electra_model(folders: dict[str, Path]) -> NamedModel:
    return NamedModel("electra", folders["discriminator"], folders["generator"])
