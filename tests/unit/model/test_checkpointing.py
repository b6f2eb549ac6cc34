"""A layer whose activations are computed again for its gradient gives the same numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.recipe.model import ModelConfig

from .conftest import VOCAB, rough_model

LAYOUT = Layout.of(torch.tensor([[0, 0, 0, 1, 1, 2, -1], [3] * 7]))
MASKED = torch.tensor([0, 4, 5, 7, 13])


def losses(model: Electra) -> list[Tensor]:
    """Of the generator at masked positions and of the discriminator everywhere, from the same random numbers."""
    ids = torch.randint(VOCAB, (2, 7), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    return [
        model.generator_hidden(ids, LAYOUT, MASKED).square().sum(),
        model.discriminator_hidden(ids, LAYOUT, depths=(0, 1)).last.square().sum(),
    ]


def calls_of(model: Electra) -> list[str]:
    """Names of layers, one for each time that one of them runs from now on."""
    names: list[str] = []
    for network in ("generator", "discriminator"):
        for index, layer in enumerate(getattr(model, network).layers):
            layer.register_forward_pre_hook(lambda *_, name=f"{network} {index}": names.append(name))
    return names


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_losses_and_gradients_are_those_without_checkpointing_bit_for_bit(either: ModelConfig, dropout: float) -> None:
    """On packed rows, with padding; dropout drops the same numbers, and as many are drawn."""
    seen = []
    for switch in (False, True):
        config = replace(either, dropout=dropout, attention_dropout=dropout, activation_checkpointing=switch)
        model = rough_model(config).train()
        calls = calls_of(model)
        found = losses(model)
        drawn = torch.random.get_rng_state()
        forward = len(calls)
        sum(found, torch.zeros(())).backward()
        assert len(calls) == (2 * forward if switch else forward)
        assert torch.equal(torch.random.get_rng_state(), drawn)
        gradients = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
        seen.append((found, gradients, drawn))
    (plain, of_plain, state), (again, of_again, state_again) = seen
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    assert of_plain.keys() == of_again.keys()
    assert all(torch.equal(gradient, of_again[name]) for name, gradient in of_plain.items())
    assert torch.equal(state, state_again)


def test_a_pass_that_is_measured_or_forms_no_gradient_runs_each_layer_once(either: ModelConfig) -> None:
    model = rough_model(replace(either, activation_checkpointing=True))
    calls = calls_of(model)
    losses(model.eval())[1].backward()
    with torch.no_grad():
        losses(model.train())
    assert max(calls.count(name) for name in calls) == 2


def test_weights_have_the_same_names(either: ModelConfig) -> None:
    with_it = Electra(replace(either, activation_checkpointing=True)).state_dict()
    assert with_it.keys() == Electra(either).state_dict().keys()
