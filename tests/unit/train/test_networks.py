"""What a run starts from: weights of an export, if its tokens are those of the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_pipeline.errors import UserError
from data_pipeline.tokenize.tokenizer import save_tokenizer, wordpiece_tokenizer
from electra_scale.model.electra import Electra
from electra_scale.model.hf import TOKENIZER_FILES, export
from electra_scale.recipe.model import ModelSection
from electra_scale.recipe.recipe import Recipe
from electra_scale.train.networks import set_first_weights
from tests.unit.train.conftest import MODEL

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrs"]


def store_of(folder: Path, words: list[str]) -> Any:
    """A store, as far as its tokenizer."""
    save_tokenizer(folder, wordpiece_tokenizer({word: index for index, word in enumerate(words)}, True))
    return SimpleNamespace(url=str(folder), tokenizer_dir=folder / "tokenizer")


def started(store: Any, init_from: Path, electra: Electra | None = None) -> tuple[Electra, list[str]]:
    electra, lines = electra or Electra(MODEL, seed=3), list[str]()
    set_first_weights(electra, Recipe(model=ModelSection(init_from=str(init_from))), store, lines.append)
    return electra, lines


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    export(Electra(MODEL, seed=7), store_of(tmp_path / "first", WORDS).tokenizer_dir, tmp_path / "out")
    return tmp_path / "out"


def test_a_run_starts_from_an_export_of_its_own_tokenizer(exported: Path, tmp_path: Path) -> None:
    electra, lines = started(store_of(tmp_path / "again", WORDS), exported)
    assert lines[0] == f"weights start from {exported}"
    assert [line.split()[0] for line in lines[1:]] == [
        "embeddings",
        "discriminator",
        "discriminator_head",
        "generator",
        "generator_head",
    ]
    assert not any("fresh" in line for line in lines)
    expected = Electra(MODEL, seed=7).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in electra.state_dict().items())


@pytest.mark.parametrize("network", ["discriminator", "generator"])
def test_an_export_of_another_tokenizer_of_the_same_size_is_refused(
    exported: Path, tmp_path: Path, network: str
) -> None:
    other = store_of(tmp_path / "other", WORDS[:5] + WORDS[:4:-1])
    if network == "generator":
        # The discriminator's folder has the store's tokenizer, the generator's another.
        for name in TOKENIZER_FILES:
            if (other.tokenizer_dir / name).is_file():
                (exported / "discriminator" / name).write_bytes((other.tokenizer_dir / name).read_bytes())
    with pytest.raises(UserError, match=rf"{network}.* another tokenizer than store .*18 of 24 ids"):
        started(other, exported)


def test_an_export_whose_tokenizer_is_gone_is_taken_with_a_warning(exported: Path, tmp_path: Path) -> None:
    for network in ("discriminator", "generator"):
        for name in TOKENIZER_FILES:
            (exported / network / name).unlink(missing_ok=True)
    _, lines = started(store_of(tmp_path / "again", WORDS), exported)
    assert lines[2].startswith("weights start from")
    assert all(line.startswith("warning: ") and "holds no tokenizer" in line for line in lines[:2])


def test_another_size_is_still_refused_by_its_numbers(exported: Path, tmp_path: Path) -> None:
    electra = Electra(replace(MODEL, embedding=16))
    store = store_of(tmp_path / "again", WORDS)
    with pytest.raises(UserError, match="embedding 12 there, 16 here"):
        started(store, exported, electra)


def test_a_generator_that_nothing_trains_and_nothing_loads_is_refused(exported: Path, tmp_path: Path) -> None:
    recipe = Recipe(model=ModelSection(init_from=str(exported / "discriminator")))
    recipe.optimizer.generator_rate = 0.0
    with pytest.raises(UserError, match="generator_rate is 0 and the generator does not start from"):
        set_first_weights(Electra(MODEL), recipe, store_of(tmp_path / "again", WORDS), print)


def test_starts_that_the_loaded_weights_replace_are_named(exported: Path, tmp_path: Path) -> None:
    recipe = Recipe(model=ModelSection(init_from=str(exported), unigram_bias=True))
    lines: list[str] = []
    set_first_weights(Electra(MODEL), recipe, store_of(tmp_path / "again", WORDS), lines.append)
    assert lines[-1] == f"model.unigram_bias is left out, since weights start from {exported}"
