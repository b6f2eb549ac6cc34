"""The step that docs/method.md shows, run as it stands on the page beside the real one."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.loader import Batch
from electra_scale.model.attention.layout import Layout
from electra_scale.tasks.module import PretrainModule
from tests.support.instruments.logits import discriminator_logits
from tests.unit.train.conftest import (
    SAMPLERS,
    SPECIAL,
    V,
    contribution,
    counts_of,
    generator_of,
    make_batch,
    make_module,
    masked_positions,
)

PAGE = Path(__file__).parents[3] / "docs/method.md"


def step_of_the_page() -> Any:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["step_loss"]


def parts_of(module: PretrainModule, batch: Batch) -> tuple[SimpleNamespace, Any]:
    """The real networks as the page calls them, and the hardness L (M, V) that the real sampler tilts by."""
    electra, sampler, layout = module.electra, generator_of(module).sampler, Layout.of(batch.segment)
    masked = masked_positions(module, batch)
    head = electra.generator_head
    assert head is not None

    def generator_scores(hidden: Tensor) -> Tensor:
        return head(hidden) @ electra.word_embeddings.T + head.bias

    def sampler_loss(hidden: Tensor, original: Tensor, replacement: Tensor, loss: Tensor) -> Tensor:
        drawn = propose(sampler, masked)
        assert torch.equal(drawn.tokens, replacement)
        return sampler.loss(masked, drawn, loss) if sampler.learns else torch.zeros(1)

    def hardness(hidden: Tensor, original: Tensor) -> Tensor:
        tilt = sampler.tilt(masked)
        if tilt is None:
            return torch.ones(len(hidden), V)
        scores = generator_scores(hidden)
        each = [tilt.log_tilt(torch.full_like(original, token), scores[:, token]) for token in range(V)]
        return torch.stack(each, -1).exp()

    networks = SimpleNamespace(
        generator=lambda ids: electra.generator_hidden(ids, layout),
        generator_head=generator_scores,
        discriminator=lambda ids: discriminator_logits(electra, ids, layout),
        sampler_loss=sampler_loss,
    )
    return networks, hardness


@pytest.mark.parametrize("mixture", [0.0, 0.1])
@pytest.mark.parametrize(
    "name", ["electra", "hp_loss rms own", "hp_loss mean context", "hp_dist rms own", "two_scalars"]
)
def test_the_step_of_the_page_has_the_loss_and_the_gradient_of_the_real_one(name: str, mixture: float) -> None:
    module = make_module(SAMPLERS[name], mixture=mixture, focal_gamma=1.0)
    batch = make_batch()
    counts = counts_of(batch)
    real, _ = contribution(module, batch, counts, detailed=False)
    networks, hardness = parts_of(module, batch)
    ours = step_of_the_page()(batch, counts, networks, hardness, 1.0, mixture, 50.0, SPECIAL.mask)
    assert float(ours.detach()) == pytest.approx(float(real.detach()), rel=1e-5)
    discriminator = list(module.electra.discriminator.parameters())
    for own, other in zip(
        torch.autograd.grad(ours, discriminator, retain_graph=True),
        torch.autograd.grad(real, discriminator),
        strict=True,
    ):
        assert torch.allclose(own, other, atol=1e-5)
