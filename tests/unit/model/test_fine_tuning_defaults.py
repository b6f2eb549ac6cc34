"""What a fine-tuning user gets from an export without setting anything: texts are cut, dropout is on, case is kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
    ElectraTokenizer,
    pipeline,
)

from data_pipeline.errors import UserError
from data_pipeline.tokenize.tokenizer import save_tokenizer, wordpiece_tokenizer
from electra_scale.model.electra import Electra
from electra_scale.model.hf import export, tokenizer_differs
from electra_scale.recipe.model import ModelConfig
from electra_scale.recipe.recipe import Recipe

NETWORKS = ("discriminator", "generator")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cafe", "Café", "café", "sat", "##s", "a"]
VOCABULARY = {word: index for index, word in enumerate(WORDS)}
TEXT = "Café sats a Cafe"


@pytest.fixture
def small(tiny: ModelConfig) -> ModelConfig:
    return replace(tiny, max_positions=20)


def tokenizer_folder(folder: Path, lowercase: bool = False) -> Path:
    """A store's tokenizer folder, and the ids that it stands for."""
    save_tokenizer(folder, wordpiece_tokenizer(VOCABULARY, lowercase))
    return folder / "tokenizer"


@pytest.mark.parametrize("network", NETWORKS)
def test_texts_are_cut_where_the_model_ends(
    small: ModelConfig, tokenizer_dir: Path, tmp_path: Path, network: str
) -> None:
    export(Electra(small), tokenizer_dir, tmp_path / "out")
    folder = str(tmp_path / "out" / network)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == AutoConfig.from_pretrained(folder).max_position_embeddings == 20
    encoded: Any = tokenizer(
        ["the cat sat on the mat " * 50, "the"], truncation=True, padding=True, return_tensors="pt"
    )
    assert encoded["input_ids"].shape == (2, 20)
    assert encoded["input_ids"][0, -1] == tokenizer.sep_token_id
    found = pipeline("feature-extraction", model=folder, tokenizer=folder)("the cat " * 50, truncation=True)
    assert len(found[0]) == 20


@pytest.mark.parametrize("files", [["tokenizer.json"], ["vocab.txt"], ["tokenizer.json", "tokenizer_config.json"]])
@pytest.mark.parametrize("lowercase", [True, False])
def test_each_class_of_tokenizer_gives_the_ids_that_the_run_was_trained_on(
    small: ModelConfig, tmp_path: Path, lowercase: bool, files: list[str]
) -> None:
    source = tokenizer_folder(tmp_path / "store", lowercase)
    expected = Tokenizer.from_file(str(source / "tokenizer.json")).encode(TEXT).ids
    if files == ["vocab.txt"] and not lowercase:
        files = ["vocab.txt", "tokenizer.json"]
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    for name in files:
        shutil.copy(source / name, chosen / name)
    export(Electra(small), chosen, tmp_path / "out")
    for network in NETWORKS:
        folder = str(tmp_path / "out" / network)
        assert AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"] == expected
        if "vocab.txt" in files:
            for kind in (BertTokenizer, ElectraTokenizer):
                tokenizer = kind.from_pretrained(folder)
                assert tokenizer(TEXT)["input_ids"] == expected
                assert tokenizer.model_max_length == 20


@pytest.mark.parametrize("given", [None, 0.25])
def test_fine_tuning_has_the_usual_dropout_whatever_pre_training_had(
    small: ModelConfig, tokenizer_dir: Path, tmp_path: Path, given: float | None
) -> None:
    config = replace(small, dropout=0.0, attention_dropout=0.0)
    if given is not None:
        config = replace(config, exported_dropout=given)
    export(Electra(config), tokenizer_dir, tmp_path / "out")
    for network in NETWORKS:
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / network)
        dropouts = [part.p for part in theirs.modules() if isinstance(part, torch.nn.Dropout)]
        assert len(dropouts) > 5
        assert set(dropouts) == {0.1 if given is None else given}
        settings = json.loads((tmp_path / "out" / network / "config.json").read_text())
        assert settings["attention_probs_dropout_prob"] == settings["summary_last_dropout"] == dropouts[0]
        assert settings["pad_token_id"] == 0
        assert settings["type_vocab_size"] == 2
        assert settings.get("dtype", settings.get("torch_dtype")) == "float32"


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_an_impossible_dropout_of_exports_is_refused(value: float) -> None:
    recipe = Recipe()
    recipe.model.exported_dropout = value
    assert recipe.problems() == [f"model.exported_dropout is {value}; it must be at least 0 and below 1"]


def test_a_checkpoint_of_another_tokenizer_is_refused_and_one_in_other_files_is_not(tmp_path: Path) -> None:
    same = tokenizer_folder(tmp_path / "same")
    other = tokenizer_folder(tmp_path / "lower", lowercase=True)
    for folder in (same, other):
        assert tokenizer_differs(folder, VOCABULARY, "the store") is None
    (tmp_path / "text").mkdir()
    shutil.copy(same / "vocab.txt", tmp_path / "text")
    assert tokenizer_differs(tmp_path / "text", VOCABULARY, "the store") is None
    # A vocab.txt has a line for an id that nothing uses.
    gap = {word: index + (index > 8) for word, index in VOCABULARY.items()}
    save_tokenizer(tmp_path / "gap", wordpiece_tokenizer(gap, False))
    (tmp_path / "gap/tokenizer/tokenizer.json").unlink()
    assert tokenizer_differs(tmp_path / "gap/tokenizer", gap, "the store") is None
    swapped = {**VOCABULARY, "sat": VOCABULARY["a"], "a": VOCABULARY["sat"]}
    for folder in (same, tmp_path / "text"):
        with pytest.raises(UserError, match=r"2 of 11 ids .*id 8 is 'sat' there, 'a' here"):
            tokenizer_differs(folder, swapped, "the store")
    with pytest.raises(UserError, match=r"1 of 12 ids .*id 11 is nothing there, 'more' here"):
        tokenizer_differs(same, {**VOCABULARY, "more": 11}, "the store")


def test_a_checkpoint_without_a_tokenizer_is_told_and_a_broken_one_refused(tmp_path: Path) -> None:
    line = tokenizer_differs(tmp_path, VOCABULARY, "the store")
    assert line is not None
    assert "holds no tokenizer" in line
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        tokenizer_differs(tmp_path, VOCABULARY, "the store")


def test_a_checkpoint_over_whose_tokenizer_the_library_panics_is_refused(tmp_path: Path) -> None:
    model = {"type": "BPE", "continuing_subword_prefix": "long", "vocab": {"a": 0, "b": 1, "ab": 2}}
    content = {"version": "1.0", "added_tokens": [], "model": model | {"merges": [["a", "b"]]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"cannot read the tokenizer of .*the library failed: .* out of range"):
        tokenizer_differs(tmp_path, {"a": 0}, "the store")
