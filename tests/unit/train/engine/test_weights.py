"""Weights of a checkpoint are those of the networks; a head that is another one by now starts fresh."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from data_pipeline.errors import UserError
from electra_scale.tasks.module import PretrainModule
from electra_scale.train.engine.weights import load_weights
from tests.unit.train.conftest import SAMPLERS, make_module, roughen


def module_of(sampler: str) -> PretrainModule:
    return make_module(SAMPLERS[sampler], rough=False)


def saved_by(sampler: str) -> dict[str, Tensor]:
    module = module_of(sampler)
    roughen(module, 7)
    return module.state_dict()


def same(module: PretrainModule, weights: dict[str, Tensor], prefix: str) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in module.state_dict().items() if prefix in name)


@pytest.mark.parametrize("sampler", ["electra", "two_scalars", "hp_loss rms own", "hp_dist rms own"])
def test_the_same_sampler_gets_all_weights(sampler: str) -> None:
    weights, module = saved_by(sampler), module_of(sampler)
    assert load_weights(module, weights, "it") == (set(), [])
    assert same(module, weights, "")


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ("hp_loss rms own", "electra", "is left out: the recipe has none"),
        ("electra", "hp_loss rms own", "starts fresh: the checkpoint has none"),
        ("hp_loss rms own", "hp_dist rms own", "starts fresh: the checkpoint's is another one"),
        ("hp_loss rms own", "hp_loss rms context", "starts fresh: the checkpoint's is another one"),
        ("hp_dist rms own", "two_scalars", "starts fresh: the checkpoint's is another one"),
    ],
)
def test_another_head_starts_fresh_or_is_left_out_and_the_networks_go_on(before: str, now: str, words: str) -> None:
    weights, module, new = saved_by(before), module_of(now), module_of(now).state_dict()
    fresh, (line,) = load_weights(module, weights, "it")
    assert words in line
    assert fresh == ({"sampler"} if "fresh" in words else set())
    assert same(module, weights, "electra.")
    assert same(module, new, "sampler.")


def test_networks_of_other_sizes_are_refused_naming_both() -> None:
    weights, module = saved_by("electra"), module_of("electra")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(UserError, match=r"it does not fit the recipe: \S+word\.weight is \(7, 12\) there, \(24, 12\)"):
        load_weights(module, weights | {"electra.embeddings.word.weight": torch.zeros(7, 12)}, "it")
    with pytest.raises(UserError, match=r"it does not fit the recipe: the recipe has no electra\.more"):
        load_weights(module, weights | {"electra.more": torch.zeros(1)}, "it")
    assert same(module, before, "")
