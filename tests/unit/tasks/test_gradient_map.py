"""Which loss teaches what (method.md, section 8 and section 9, check 5)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.model.attention.layout import Layout
from tests.support.instruments.logits import discriminator_logits
from tests.unit.train.conftest import (
    LEARNING,
    SAMPLERS,
    V,
    counts_of,
    gradients,
    make_batch,
    make_module,
    masked_positions,
)

PARTS = {
    "generator encoder": "electra.generator.",
    "MLM head": "electra.generator_head.",
    "sampling head": "sampler.",
    "discriminator": "electra.discriminator",
    "shared embeddings": "electra.embeddings.",
}


def difference(name: str, key: str, low: float, high: float, reaches_encoder: bool = True) -> dict[str, Tensor]:
    """What a loss adds to each parameter's gradient: with its weight at ``high`` against ``low``.

    Where the two gradients are equal bit for bit, the loss adds exactly nothing.
    """
    batch = make_batch()
    settings = SAMPLERS[name]
    settings = replace(settings, head=replace(settings.head, reaches_encoder=reaches_encoder))
    one, other = (gradients(make_module(settings, **{key: value}), [batch], counts_of(batch)) for value in (high, low))
    return {name: one[name] - other[name] for name in one}


def touched(changes: dict[str, Tensor]) -> set[str]:
    return {
        part
        for part, prefix in PARTS.items()
        if any(change.any() for name, change in changes.items() if name.startswith(prefix))
    }


def parts_are_all(changes: dict[str, Tensor]) -> bool:
    return all(any(name.startswith(prefix) for prefix in PARTS.values()) for name in changes)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_discriminators_loss_reaches_the_discriminator_and_the_shared_embeddings_only(name: str) -> None:
    changes = difference(name, "discriminator_weight", 0.0, 50.0)
    assert parts_are_all(changes)
    assert touched(changes) == {"discriminator", "shared embeddings"}


def test_the_embeddings_get_the_discriminators_loss_from_its_input_alone() -> None:
    """Not through the tied weights of the generator's output, nor through the draw."""
    batch, module = make_batch(), make_module(SAMPLERS["hp_loss rms own"])
    with torch.no_grad():
        drawn = propose(module.sampler, masked_positions(module, batch))
    ids = batch.ids.flatten().index_copy(0, batch.masked, drawn.tokens).view_as(batch.ids)
    weight = (batch.segment >= 0).float().flatten().index_copy(0, batch.masked, drawn.weight)
    logits = discriminator_logits(module.electra, ids, Layout.of(batch.segment))
    loss = binary_cross_entropy_with_logits(logits, (ids != batch.ids).float(), reduction="none").flatten() @ weight
    loss = 50 * loss / (batch.segment >= 0).sum()
    embeddings = dict(module.electra.embeddings.named_parameters(prefix="electra.embeddings"))
    expected = dict(zip(embeddings, torch.autograd.grad(loss, list(embeddings.values())), strict=True))
    changes = difference("hp_loss rms own", "discriminator_weight", 0.0, 50.0)
    for key, gradient in expected.items():
        assert gradient.any()
        assert torch.allclose(changes[key], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), key


@pytest.mark.parametrize("reaches_encoder", [True, False])
@pytest.mark.parametrize("name", LEARNING)
def test_the_samplers_loss_reaches_the_head_and_where_asked_the_encoder(name: str, reaches_encoder: bool) -> None:
    changes = difference(name, "sampler_weight", 0.0, 1.0, reaches_encoder)
    below = {"generator encoder", "shared embeddings"} if reaches_encoder else set()
    assert touched(changes) == {"sampling head"} | below


@pytest.mark.parametrize("name", LEARNING)
def test_the_samplers_loss_does_not_move_the_output_weights_that_it_reads(name: str) -> None:
    """Word embeddings are the head's keys, but only the path through the encoder's input trains them."""
    unseen = torch.ones(V, dtype=torch.bool)
    batch = make_batch()
    seen = batch.ids.flatten().clone()
    seen[batch.masked[batch.shown_as_mask]] = 4
    unseen[seen] = False
    assert unseen.any()
    changes = difference(name, "sampler_weight", 0.0, 1.0)
    assert not changes["electra.embeddings.word.weight"][unseen].any()


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_generators_loss_reaches_generator_and_shared_embeddings_only(name: str) -> None:
    batch = make_batch()
    module = make_module(SAMPLERS[name], discriminator_weight=0.0, sampler_weight=0.0)
    assert touched(gradients(module, [batch], counts_of(batch))) == {
        "generator encoder",
        "MLM head",
        "shared embeddings",
    }
