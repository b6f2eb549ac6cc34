"""Gradients row by row against autograd's own, and how much of a network is kept for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from data_pipeline.errors import UserError
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.train.heldout.gradient_spread import (
    GradientSpread,
    discriminator_parts,
    graph_from,
    parts_of,
    recorded,
    slopes_of,
)
from tests.unit.train.conftest import MODELS, make_batch, random, roughen

ROWS = 4


def network(architecture: str = "bert") -> Electra:
    electra = Electra(MODELS[architecture], seed=1)
    roughen(electra, 2)
    return electra.double()


def losses_of(electra: Electra, ids: Tensor, layout: Layout) -> list[Tensor]:
    """Two losses (B,) of each row."""
    logits = electra.discriminator_head(electra.discriminator_hidden(ids, layout).last)
    weight = torch.rand(2, *logits.shape, generator=random(4), dtype=torch.float64)
    return [(logits.square() * weight[0]).sum(1), (logits * weight[1]).sum(1)]


@pytest.mark.parametrize("architecture", MODELS)
def test_the_variances_are_those_of_every_parameters_gradient_row_by_row(architecture: str) -> None:
    electra, batch = network(architecture), make_batch(0, ROWS)
    layout = Layout.of(batch.segment)
    parts = discriminator_parts(electra)
    spreads = {name: GradientSpread(part) for name, part in parts.items()}
    # In two pieces, as micro-batches are.
    whole = losses_of(electra, batch.ids, layout)
    with recorded(part for one in parts.values() for part in one) as calls:
        found = losses_of(electra, batch.ids, layout)
        slopes = slopes_of(calls, [one.sum() for one in found])
    for spread in spreads.values():
        spread.add(calls, slopes)
    layers = electra.discriminator.layers
    assert isinstance(layers, nn.ModuleList)
    of_parts = {
        "head": [*electra.discriminator_head.parameters()],
        "last layer": [*layers[-1].parameters()],
        "embeddings": [*electra.embeddings.parameters()],
    }
    listed = {id(parameter) for one in of_parts.values() for parameter in one}
    of_parts["other layers"] = [one for one in electra.discriminator.parameters() if id(one) not in listed]
    for name, parameters in of_parts.items():
        gradients = [[], [], []]
        for row in range(ROWS):
            by_loss = [loss[row] for loss in whole]
            for kept, loss in zip(gradients, (*by_loss, sum(by_loss)), strict=True):
                found_gradient = torch.autograd.grad(loss, parameters, retain_graph=True)
                kept.append(torch.cat([one.flatten() for one in found_gradient]))
        expected = torch.stack([torch.stack(one).var(0).sum() for one in gradients])
        torch.testing.assert_close(spreads[name].variance(), expected)


def test_micro_batches_add_up() -> None:
    electra, batch = network(), make_batch(0, ROWS)
    part = parts_of(electra.embeddings)
    whole, halves = GradientSpread(part), GradientSpread(part)
    for spread, pieces in ((whole, [slice(0, ROWS)]), (halves, [slice(0, 2), slice(2, ROWS)])):
        for piece in pieces:
            with recorded(part) as calls:
                hidden = electra.discriminator_hidden(batch.ids[piece], Layout.of(batch.segment[piece])).last
                slopes = slopes_of(calls, [electra.discriminator_head(hidden).square().sum()])
            spread.add(calls, slopes)
    torch.testing.assert_close(whole.variance(), halves.variance())
    assert len(whole.variance()) == 1


def test_layers_before_the_graph_keep_nothing() -> None:
    electra, batch = network(), make_batch(0, ROWS)
    layers, layout = electra.discriminator.layers, Layout.of(batch.segment)
    assert isinstance(layers, nn.ModuleList)

    def kept(first: nn.Module) -> int:
        sizes: list[int] = []
        with (
            torch.autograd.graph.saved_tensors_hooks(lambda one: sizes.append(one.numel()) or one, lambda one: one),
            graph_from(first),
        ):
            assert not torch.is_grad_enabled()
            electra.discriminator_hidden(batch.ids, layout)
        assert torch.is_grad_enabled()
        return sum(sizes)

    assert 0 < kept(layers[-1]) < 0.6 * kept(layers[0])
    assert not any(part._forward_pre_hooks for part in electra.modules())


def test_a_module_whose_gradients_are_not_known_is_named() -> None:
    with pytest.raises(UserError, match="Conv1d"):
        parts_of(nn.Sequential(nn.Linear(2, 2), nn.Conv1d(2, 2, 1)))
