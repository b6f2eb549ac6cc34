"""Layers that torch.compile has made: the same numbers and names, compiled once and not again.

What torch.compile records runs as it is here: no machine code is made, which would take minutes.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from data_pipeline.errors import UserError
from electra_scale.model import compiled
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.recipe.model import ModelConfig
from tests.support.instruments.varlen import IN_PLAIN_TORCH

from .conftest import VOCAB, rough_model

PACKED = Layout.of(torch.tensor([[0, 0, 0, 1, 1, 2, -1], [3] * 7]))
WHOLE = Layout.of(torch.tensor([[0] * 7, [1] * 7]))
ONE_LESS = Layout.of(torch.tensor([[0, 0, 1, 1, 1, -1, -1], [3] * 6 + [4]]))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()


def step(model: Electra, layout: Layout, masked: int = 4) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Losses of both networks and gradients."""
    model.zero_grad()
    ids = torch.randint(VOCAB, layout.segment.shape, generator=torch.Generator().manual_seed(masked))
    only = (layout.segment >= 0).flatten().nonzero().flatten()[:masked]
    torch.manual_seed(5)
    losses = [
        model.generator_hidden(ids, layout, only).sin().sum(),
        model.discriminator_hidden(ids, layout).last[layout.segment >= 0].sin().sum(),
    ]
    sum(losses, torch.zeros(())).backward()
    gradients = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    return [loss.detach() for loss in losses], gradients


def both(config: ModelConfig) -> tuple[Electra, Electra]:
    """Networks of the same weights, as they are and compiled; without dropout."""
    config = replace(config, dropout=0.0, attention_dropout=0.0)
    return rough_model(config).train(), rough_model(replace(config, compile=True)).train()


def assert_same_step(plain: Electra, made: Electra, layout: Layout, masked: int = 4) -> None:
    (losses, gradients), (expected, of_plain) = (step(model, layout, masked) for model in (made, plain))
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=1e-5)
    assert gradients.keys() == of_plain.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, of_plain[name], atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("end_to_end", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nothing_is_compiled_after_the_first_step(either: ModelConfig, end_to_end: bool) -> None:
    """Whatever the number of documents, of padded positions and of masked ones; measuring compiles nothing either."""
    plain, made = both(either)
    attention = IN_PLAIN_TORCH if end_to_end else None
    assert_same_step(plain, made, PACKED.computed_by(attention))
    first = counters["stats"]["unique_graphs"]
    # Two parts of a layer for each network; the modern one's first layer has no LayerNorm.
    assert 0 < first <= 4 if either.architecture.kind == "bert" else 0 < first <= 6
    with torch._dynamo.config.patch(error_on_recompile=True):
        for layout, masked in ((PACKED, 3), (ONE_LESS, 5), (WHOLE, 4)):
            assert_same_step(plain, made, layout.computed_by(attention), masked)
        with torch.no_grad():
            made.discriminator_hidden(torch.zeros(3, 5, dtype=torch.int64), Layout.of(torch.zeros(3, 5)))
        made.eval().discriminator_hidden(torch.zeros(1, 4, dtype=torch.int64), Layout.of(torch.zeros(1, 4)))
    assert counters["stats"]["unique_graphs"] == first


@pytest.mark.slow
@pytest.mark.usefixtures("graphs")
def test_with_checkpointing_gradients_are_those_without(either: ModelConfig) -> None:
    plain, made = both(replace(either, activation_checkpointing=True))
    assert_same_step(plain, made, PACKED)


def test_weights_have_the_same_names_and_start(either: ModelConfig) -> None:
    with_it, without = Electra(replace(either, compile=True)).state_dict(), Electra(either).state_dict()
    assert with_it.keys() == without.keys()
    assert all(torch.equal(value, without[name]) for name, value in with_it.items())


def test_a_missing_compiler_is_one_line_that_says_what_to_install(
    either: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(compiled, "_require_compiler", functools.cache(compiled._require_compiler.__wrapped__))
    model = rough_model(replace(either, compile=True)).train()
    with pytest.raises(UserError, match=r"^model\.compile needs a C\+\+ compiler .*; install g\+\+, or set .* false$"):
        step(model, PACKED)
    # What forms no gradient is not compiled.
    with torch.no_grad():
        model.generator_hidden(torch.zeros(2, 7, dtype=torch.int64), PACKED)
