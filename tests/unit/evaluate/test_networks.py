"""A network is opened with all its trained weights, or refused in one line: a random head is never scored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, ElectraModel

from data_pipeline.errors import UserError
from electra_scale.evaluate.networks import open_discriminator, open_encoder, open_masked_lm, same_tokens
from tests.unit.evaluate.conftest import LONGEST, SIZES, WORDS, electra, write


@pytest.mark.parametrize(
    ("open_network", "kind", "reason"),
    [
        (open_discriminator, "generator", "has no head that tells original tokens from replaced ones"),
        (open_discriminator, "bert", "a model of type bert, which has no head that tells"),
        (open_discriminator, "modernbert", "a model of type modernbert, which has no head that tells"),
        (open_masked_lm, "discriminator", "has no head that predicts masked tokens"),
        (open_masked_lm, "modern discriminator", "has no head that predicts masked tokens"),
    ],
)
def test_a_model_without_the_trained_head_is_refused(
    folders: dict[str, Path], open_network: Any, kind: str, reason: str
) -> None:
    state = torch.get_rng_state()
    with pytest.raises(UserError, match=reason):
        open_network("m", folders[kind])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["discriminator", "generator", "bert", "modernbert"])
def test_every_encoder_is_opened_without_its_head(folders: dict[str, Path], kind: str) -> None:
    assert open_encoder("m", folders[kind]).longest == LONGEST


def test_a_bare_encoder_has_no_head_to_score(tmp_path: Path) -> None:
    bert = write(tmp_path / "b", BertModel(BertConfig(max_position_embeddings=LONGEST, **SIZES)))
    with pytest.raises(UserError, match="has no head that predicts masked tokens"):
        open_masked_lm("m", bert)
    bare = write(tmp_path / "e", ElectraModel(electra()))
    with pytest.raises(UserError, match="has no head that tells"):
        open_discriminator("m", bare)
    assert open_encoder("m", bare)


def test_a_folder_that_does_not_hold_together_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def changed(name: str) -> Path:
        return shutil.copytree(folders["discriminator"], tmp_path / name)

    without = changed("without")
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (without / file).unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        open_discriminator("m", without)
    damaged = changed("damaged")
    (damaged / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be loaded as a discriminator"):
        open_discriminator("m", damaged)
    (changed("config") / "config.json").write_text("{")
    with pytest.raises(UserError, match="holds no model of transformers that can be opened"):
        open_discriminator("m", tmp_path / "config")
    other = write(tmp_path / "other", ElectraModel(electra()), words=[*WORDS, "more", "words"])
    with pytest.raises(UserError, match="does not fit the model: 'words' has id 28, the model has 27 embeddings"):
        open_encoder("m", other)


def test_tokenizers_that_differ_are_told_apart_with_an_example(folders: dict[str, Path], tmp_path: Path) -> None:
    one, other = (open_masked_lm("m", folders[kind]) for kind in ("generator", "bert"))
    assert same_tokens(one, other) is None
    config = BertConfig(max_position_embeddings=LONGEST, **SIZES)
    different = write(tmp_path / "b", BertModel(config), words=["the", "a", *WORDS[2:]])
    found = same_tokens(one, open_encoder("m", different))
    assert found is not None
    assert found.startswith("2 tokens differ")
