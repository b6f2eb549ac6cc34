"""Networks on a CUDA device: both forms of attention, compiled and checkpointed layers. ``make gpu`` runs these."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.recipe.model import EncoderSize, ModelConfig, ModernSettings

pytestmark = pytest.mark.cuda

VOCABULARY, LENGTH = 200, 96
CUDA = torch.device("cuda")
BERT = ModelConfig(
    vocab_size=VOCABULARY,
    embedding=64,
    discriminator=EncoderSize(3, 128, 256, 2),
    generator=EncoderSize(3, 64, 128, 1),
    max_positions=LENGTH,
    dropout=0.0,
    attention_dropout=0.0,
)
MODELS = {"bert": BERT, "modern": replace(BERT, architecture=ModernSettings(window=16))}

every_architecture = pytest.mark.parametrize("architecture", MODELS)


def packed(seed: int = 0) -> Tensor:
    """(4,S) segments: one document, several, padding at the end, a row of padding."""
    segment = torch.full((4, LENGTH), -1, dtype=torch.int64)
    segment[0] = 0
    cuts = torch.randint(1, LENGTH - 1, (2, 5), generator=torch.Generator().manual_seed(seed)).sort(-1).values
    for row in (1, 2):
        for number, begin in enumerate([0, *cuts[row - 1].tolist()]):
            segment[row, begin:] = number
    segment[2, 3 * LENGTH // 4 :] = -1
    return segment


def networks(config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> Electra:
    """Weights that are the same for every switch."""
    model = Electra(config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.to(CUDA, dtype).train()


def step(model: Electra, layout: Layout, real: Tensor) -> tuple[Tensor, Tensor]:
    """States of both networks where there is text, and all gradients in one row."""
    model.zero_grad()
    ids = torch.randint(VOCABULARY, real.shape, generator=torch.Generator().manual_seed(3)).to(CUDA)
    only = real.flatten().nonzero().flatten()[::5]
    states = model.discriminator_hidden(ids, layout).last[real], model.generator_hidden(ids, layout, only)
    torch.stack([part.float().square().mean() for part in states]).sum().backward()
    gradients = [part.grad.float().flatten() for part in model.parameters() if part.grad is not None]
    return torch.cat([part.float().flatten() for part in states]).detach(), torch.cat(gradients)


def apart(one: Tensor, other: Tensor) -> float:
    """Size of the difference, of that of the second."""
    return float((one - other).norm() / other.norm())


@every_architecture
def test_documents_end_to_end_give_what_rows_under_masks_give(architecture: str) -> None:
    """Both in bf16, each no further from float32 than rounding takes it."""
    config, segment = MODELS[architecture], packed()
    layout, real = Layout.of(segment).to(CUDA), (segment >= 0).to(CUDA)
    assert layout.attention is not None, "this device has no attention of its own"
    exact = step(networks(config, torch.float32), layout.in_rows(), real)
    rows = step(networks(config), layout.in_rows(), real)
    end_to_end = step(networks(config), layout, real)
    for found, masked, expected in zip(end_to_end, rows, exact, strict=True):
        assert apart(found, expected) < max(0.02, 1.5 * apart(masked, expected))


@every_architecture
def test_compiled_layers_give_the_same_and_are_not_compiled_again(architecture: str) -> None:
    config = MODELS[architecture]
    plain, made = networks(config), networks(replace(config, compile=True))
    compiled_after = []
    for seed in range(4):
        segment = packed(seed)
        layout, real = Layout.of(segment).to(CUDA), (segment >= 0).to(CUDA)
        expected, found = step(plain, layout, real), step(made, layout, real)
        for one, other in zip(found, expected, strict=True):
            assert apart(one, other) < 0.03
        compiled_after.append(counters["stats"]["unique_graphs"])
    assert compiled_after[1:] == compiled_after[1:2] * 3


@every_architecture
def test_checkpointed_layers_give_the_same_bits(architecture: str) -> None:
    config, segment = replace(MODELS[architecture], dropout=0.1), packed()
    layout, real = Layout.of(segment).to(CUDA), (segment >= 0).to(CUDA)
    found = []
    for switch in (False, True):
        torch.manual_seed(4)
        found.append(step(networks(replace(config, activation_checkpointing=switch)), layout, real))
    for one, other in zip(*found, strict=True):
        # The embeddings' gradient is summed in no fixed order on a device.
        assert apart(one, other) < 1e-3
    assert torch.equal(found[0][0], found[1][0])


@every_architecture
def test_a_forward_pass_waits_for_nothing(architecture: str) -> None:
    model, segment = networks(MODELS[architecture]), packed()
    layout = Layout.of(segment).to(CUDA)
    ids = torch.randint(VOCABULARY, segment.shape, generator=torch.Generator().manual_seed(3)).to(CUDA)
    model.discriminator_hidden(ids, layout)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.discriminator_hidden(ids, layout).last.float().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
