"""Published ModernBERT weights as starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from data_pipeline.errors import UserError
from electra_scale.model.starts.source import kept_by_kind
from electra_scale.recipe.model import EncoderSize, ModelConfig, ModernSettings
from tests.unit.model import test_starts as bert
from tests.unit.model.conftest import roughen

SIZE = EncoderSize(6, 24, 48, 4)
CONFIG = ModelConfig(
    vocab_size=len(bert.WORDS),
    embedding=24,
    discriminator=SIZE,
    generator=SIZE,
    max_positions=16,
    dropout=0.0,
    attention_dropout=0.0,
    architecture=ModernSettings(window=4),
)


def save(folder: Path, model: str = "ModernBertForMaskedLM", **changes: Any) -> Any:
    config = transformers.ModernBertConfig(
        **{
            "vocab_size": len(bert.WORDS),
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "local_attention": 4,
            "max_position_embeddings": 8192,
            "pad_token_id": 0,
            "cls_token_id": 2,
            "sep_token_id": 3,
            "bos_token_id": 2,
            "eos_token_id": 3,
            **changes,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = getattr(transformers, model)(config).eval()
    roughen(made, 4)
    made.tie_weights()
    bert.save(folder)
    made.save_pretrained(folder)
    return made


@torch.no_grad()
def test_a_modernbert_is_both_networks(tmp_path: Path) -> None:
    theirs = save(tmp_path)
    electra, found, _ = bert.started(tmp_path, CONFIG)
    bert.assert_near(bert.scores(electra), bert.masked(theirs))
    bert.assert_near(bert.hidden(electra), theirs.model(bert.IDS, attention_mask=(bert.SEGMENT >= 0).long())[0])
    assert found.fresh == {"discriminator_head"}
    electra, found, _ = bert.started(tmp_path, replace(CONFIG, generator=EncoderSize(4, 24, 48, 4)))
    theirs.model.layers = torch.nn.ModuleList(theirs.model.layers[index] for index in (0, 1, 5, 3))
    bert.assert_near(bert.scores(electra), bert.masked(theirs))
    electra, found, _ = bert.started(tmp_path, replace(CONFIG, generator=EncoderSize(4, 12, 48, 2)))
    assert found.fresh == {"discriminator_head", "generator", "generator_head"}


@torch.no_grad()
def test_a_modernbert_without_heads_is_the_discriminator(tmp_path: Path) -> None:
    theirs = save(tmp_path, "ModernBertModel")
    electra, found, _ = bert.started(tmp_path, CONFIG, "discriminator")
    bert.assert_near(bert.hidden(electra), theirs(bert.IDS, attention_mask=(bert.SEGMENT >= 0).long())[0])
    assert found.left_out == {}


def test_other_windows_are_refused(tmp_path: Path) -> None:
    save(tmp_path, local_attention=8)
    with pytest.raises(UserError, match="window 8 there, 4 here"):
        bert.started(tmp_path, CONFIG)


def test_layers_are_kept_by_their_kind() -> None:
    kinds = ["full", "window", "window"] * 4
    assert kept_by_kind(kinds, kinds[:6]) == [0, 1, 4, 9, 8, 11]
    assert kept_by_kind(kinds, kinds) == list(range(12))
