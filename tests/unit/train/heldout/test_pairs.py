"""Pairs while a run trains: right against a plain loop, the same on any number of ranks, and without side effects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from data_pipeline.tokenize.tokenizer import load_tokenizer
from electra_scale.cluster.ranks import Alone
from electra_scale.data.loader import Loader
from electra_scale.data.split import Split
from electra_scale.data.store import Store, special_tokens
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.recipe.data import DataConfig
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.replaced_tokens import ReplacedTokens
from electra_scale.train.heldout.pairs import HeldoutPairs, PairRows, score_rows
from tests.unit.train.conftest import MODEL, SAMPLERS, generator_of, make_module, roughen

CPU = torch.device("cpu")
LENGTH = 32


@pytest.fixture(scope="module")
def loader(store: Path) -> Loader:
    opened = Store(store)
    config = DataConfig(sequence_length=LENGTH)
    return Loader(Split(opened, "heldout", special_tokens(opened.tokenizer_dir), config), 0, 8, shuffle=False)


@pytest.fixture(scope="module")
def module(store: Path) -> PretrainModule:
    opened = Store(store)
    config = replace(MODEL, vocab_size=opened.manifest.tokenizer.vocab_size, max_positions=LENGTH)
    electra = Electra(config, seed=1)
    roughen(electra, 2)
    small = make_module(SAMPLERS["electra"])
    task = ReplacedTokens(small.task.settings, config, special_tokens(opened.tokenizer_dir))
    return PretrainModule(electra, generator_of(small), task, "joint")


class Others(Exception):
    """A rank has given its part, and the others have not."""


class Rank:
    """One of several ranks in one process, which run after each other: each leaves its part, then all get all."""

    device = CPU

    def __init__(self, rank: int, size: int, parts: list[Any]) -> None:
        self.rank, self.size, self.parts = rank, size, parts

    def from_main(self, find: Any) -> Any:
        return find()

    def gather(self, value: Any) -> list[Any]:
        if len(self.parts) < self.size:
            self.parts.append(value)
            raise Others
        return self.parts

    def sum(self, value: Any) -> Any:
        raise NotImplementedError


def heldout(loader: Loader, ranks: Any, most: int = 20, lines: list[str] | None = None) -> HeldoutPairs:
    return HeldoutPairs(loader, most, 8, ranks, (lines if lines is not None else []).append)


def made(pairs: HeldoutPairs) -> PairRows:
    assert pairs._made is not None
    return pairs._made


def test_the_shares_are_those_of_one_sentence_after_the_other(loader: Loader, module: PretrainModule) -> None:
    pairs = heldout(loader, Alone(CPU))
    found = pairs.measure(module)
    assert set(found) == {"eval/pairs_swapped", "eval/pairs_replaced"}
    special = loader.split.special
    scores = []
    for row in made(pairs).rows:
        assert row[0] == special.cls
        assert row[-1] == special.sep
        assert len(row) <= LENGTH
        ids = torch.tensor([row])
        with torch.no_grad():
            hidden = module.electra.discriminator_hidden(ids, Layout.of(torch.zeros_like(ids))).last
            logits = module.electra.discriminator_head(hidden)[0, 1:-1]
        scores.append(float(logsigmoid(-logits.double()).sum()))
    assert score_rows(module, made(pairs).rows, special, 8, Alone(CPU)) == pytest.approx(scores, abs=1e-5)
    for kind, chosen in made(pairs).pairs.items():
        assert 0 < len(chosen) <= 20
        assert found[f"eval/pairs_{kind}"] == sum(scores[one] > scores[other] for one, other in chosen) / len(chosen)


def test_the_rows_are_sentences_that_are_wrong_in_one_place(loader: Loader, module: PretrainModule) -> None:
    pairs = heldout(loader, Alone(CPU))
    pairs.measure(module)
    tokenizer = load_tokenizer(loader.split.store.tokenizer_dir.parent)
    for one, other in made(pairs).pairs["swapped"]:
        before, after = (tokenizer.decode(made(pairs).rows[row]) for row in (one, other))
        assert before != after
        assert sorted(before.split()) == sorted(after.split())


@pytest.mark.parametrize("size", [2, 5])
def test_any_number_of_ranks_gets_the_same_bits_and_polls_as_often(
    loader: Loader, module: PretrainModule, size: int
) -> None:
    alone = heldout(loader, Alone(CPU))
    expected = alone.measure(module)
    parts: list[Any] = []
    rows = made(alone).rows
    for rank in range(size):
        with pytest.raises(Others):
            score_rows(module, rows, loader.split.special, 8, Rank(rank, size, parts))
    polls: list[list[int]] = [[] for _ in range(size)]
    for rank in range(size):
        pairs = heldout(loader, Rank(rank, size, parts))
        pairs._made = alone._made
        assert pairs.measure(module, lambda rank=rank: polls[rank].append(1)) == expected
    assert len({len(one) for one in polls}) == 1
    assert polls[0]


@pytest.mark.parametrize("training", [True, False])
def test_scoring_leaves_everything_as_it_was(loader: Loader, module: PretrainModule, training: bool) -> None:
    module.train(training)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    heldout(loader, Alone(CPU)).measure(module)
    assert module.training == training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_store_without_sentences_says_so_once(store: Path, module: PretrainModule) -> None:
    opened = Store(store)
    config = DataConfig(sequence_length=8)
    split = Split(opened, "heldout", special_tokens(opened.tokenizer_dir), config)
    lines: list[str] = []
    pairs = heldout(Loader(split, 0, 8, shuffle=False), Alone(CPU), lines=lines)
    assert pairs.measure(module) == {}
    assert pairs.measure(module) == {}
    assert len(lines) == 1
    assert "no sentence that fits into 8 tokens" in lines[0]


def test_none_are_made_if_none_are_asked_for(loader: Loader, module: PretrainModule) -> None:
    lines: list[str] = []
    assert heldout(loader, Alone(CPU), most=0, lines=lines).measure(module) == {}
    assert lines == []
