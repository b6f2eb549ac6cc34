"""Whatever a user names as a model is opened as the folder that transformers loads, or refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

from data_pipeline.errors import UserError
from electra_scale.export.named_model import named_model

SIZES = {"vocab_size": 6, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]


def write(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return folder


@pytest.fixture
def export(tmp_path: Path) -> Path:
    write(tmp_path / "e" / "discriminator", ElectraForPreTraining(ElectraConfig(embedding_size=8, **SIZES)))
    write(tmp_path / "e" / "generator", ElectraForMaskedLM(ElectraConfig(embedding_size=8, **SIZES)))
    return tmp_path / "e"


def weights(folder: Path, kind: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = kind.from_pretrained(folder).state_dict()
    return found


def test_an_export_is_both_networks_and_one_of_its_folders_is_itself(export: Path) -> None:
    with named_model(str(export)) as found:
        assert (found.folder, found.generator) == (export / "discriminator", export / "generator")
        assert (found.run, found.step, found.phase, found.random) == (None, None, None, False)
    with named_model(str(export / "discriminator")) as found:
        assert (found.folder, found.generator) == (export / "discriminator", None)
    shutil.rmtree(export / "discriminator")
    with named_model(str(export)) as found:
        assert (found.folder, found.generator) == (export / "generator", None)


def test_random_weights_have_the_sizes_and_the_tokenizer_and_follow_from_the_seed(export: Path) -> None:
    drawn = []
    for seed in (0, 0, 1):
        state = torch.get_rng_state()
        with named_model(f"random:{export}", seed=seed) as found:
            assert found.random
            assert found.generator is not None
            drawn.append(weights(found.folder, ElectraForPreTraining))
            assert "a" in (found.folder / "tokenizer.json").read_text()
            folder = found.folder
        assert not folder.exists()
        assert torch.equal(state, torch.get_rng_state())
    name = "electra.embeddings.word_embeddings.weight"
    own = weights(export / "discriminator", ElectraForPreTraining)
    assert torch.equal(drawn[0][name], drawn[1][name])
    assert not torch.equal(drawn[0][name], drawn[2][name])
    assert not torch.equal(drawn[0][name], own[name])
    assert {key: value.shape for key, value in drawn[0].items()} == {key: value.shape for key, value in own.items()}


def test_a_model_of_another_kind_can_be_named_and_drawn_anew(tmp_path: Path) -> None:
    folder = write(tmp_path / "bert", BertForMaskedLM(BertConfig(**SIZES)))
    for name in (str(folder), f"random:{folder}"):
        with named_model(name) as found:
            assert found.generator is None
            assert BertForMaskedLM.from_pretrained(found.folder).config.vocab_size == 6


@pytest.mark.parametrize(
    ("files", "name", "step", "message"),
    [
        ({}, "", None, "'' names no model"),
        ({}, "random:", None, "'random:' names no model"),
        ({}, "{}/nowhere", None, r"there is no folder '.*nowhere', and no model of that name can be had from the hub"),
        (
            {"notes.txt": "x"},
            "{}",
            None,
            "holds no model: it is no run folder .* no export .* and no folder of transfo",
        ),
        ({"config.json": "{}"}, "{}", 3, "is no run folder, so it has no checkpoint of step 3; leave --step out"),
        ({"config.json": "{"}, "random:{}", None, "holds no model of transformers that can be opened"),
        ({"config.json": '{"model_type": "bert"}'}, "random:{}", None, "names no class of transformers"),
        ({"config.json": "[]", "discriminator/x": ""}, "random:{}", None, "holds no model of transformers that can be"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], name: str, step: int | None, message: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message) as raised, named_model(name.format(tmp_path), step):
        pass
    assert "\n" not in str(raised.value)
