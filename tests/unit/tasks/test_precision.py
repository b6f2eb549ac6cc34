"""A step in float64, in bf16 and under autocast: it runs, and its figures are those of its own numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from electra_scale.corruption.corruption import Statistic
from electra_scale.corruption.generator import GeneratorCorruption
from electra_scale.corruption.random import RandomSettings
from electra_scale.corruption.statistics import generator_metrics
from electra_scale.data.batch import Batch
from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.corruption import GeneratorSettings
from electra_scale.recipe.phases import Phase
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import PretrainModule, build_module
from electra_scale.tasks.sums import Flattener
from tests.unit.train.conftest import (
    MODEL,
    SAMPLERS,
    SPECIAL,
    clock_of,
    counts_of,
    make_batch,
    masked_positions,
    roughen,
)

every_sampler = pytest.mark.parametrize("name", SAMPLERS)


def built(settings: GeneratorSettings, phase: Phase = "joint") -> PretrainModule:
    module = build_module(Recipe(corruption=settings), MODEL, SPECIAL, phase)
    roughen(module, 5)
    return module


def step(module: PretrainModule, batch: Batch) -> tuple[Tensor, list[Statistic]]:
    clock, counts = clock_of(module), counts_of(batch)
    loss, statistics = module(batch, Layout.of(batch.segment), clock, counts, 1.0, True)
    return loss, statistics


@pytest.mark.parametrize("phase", ["joint", "generator_warmup"])
@every_sampler
def test_a_module_of_float64_can_take_a_step(name: str, phase: Phase) -> None:
    module = built(SAMPLERS[name], phase).double()
    loss, _ = step(module, make_batch())
    loss.backward()
    found = {key: one.grad for key, one in module.named_parameters() if one.grad is not None}
    assert {loss.dtype, *(one.dtype for one in found.values())} == {torch.float64}
    assert isinstance(module.corruptor, GeneratorCorruption)
    learns = phase == "joint" and module.corruptor.sampler.learns
    assert any(one.any() for key, one in found.items() if key.startswith("sampler.")) == learns


def test_a_module_of_float64_without_a_generator_can_take_a_step() -> None:
    module = build_module(Recipe(corruption=RandomSettings()), MODEL, SPECIAL, "joint").double()
    loss, _ = step(module, make_batch())
    loss.backward()
    assert loss.dtype == torch.float64


@every_sampler
def test_gradients_in_float64_are_those_of_finite_differences(name: str) -> None:
    # Weights and what the sampler learns from are constants of the gradient; a difference would move them too.
    module = built(replace(SAMPLERS[name], weight_power=0.0, sampler_weight=0.0)).double()
    batch = make_batch()
    step(module, batch)[0].backward()
    for key in ("electra.generator_head.bias", "electra.discriminator_head.output.bias"):
        parameter = module.get_parameter(key)
        gradient = parameter.grad
        assert gradient is not None
        place, values = int(gradient.abs().argmax()), []
        for size in (1e-6, -1e-6):
            with torch.no_grad():
                parameter[place] += size
                values.append(float(step(module, batch)[0]))
                parameter[place] -= size
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(gradient[place]), rel=1e-6), key


@pytest.mark.parametrize("precision", ["bfloat16", "autocast"])
@every_sampler
def test_a_step_of_16_bits_logs_the_accuracy_and_entropy_of_its_own_numbers(name: str, precision: str) -> None:
    module, batch = built(SAMPLERS[name]), make_batch(mask_share=0.6)
    if precision == "bfloat16":
        module = module.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        loss, statistics = step(module, batch)
        masked = masked_positions(module, batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(one.grad.isfinite().all() for one in module.parameters() if one.grad is not None)
    assert {one.dtype for one in module.corruptor.modules()["sampler"].parameters()} <= {torch.float32}
    flattener = Flattener(statistics)
    sums = flattener.unpack(flattener.pack(statistics).numpy())
    sums |= {key: value[None].double().numpy() for key, value in counts_of(batch).items()}
    metrics = generator_metrics(sums)
    scores = masked.features.double() @ masked.word_embeddings.double().T + masked.bias.double()
    log_p = scores.log_softmax(-1)
    own = log_p.gather(1, masked.original[:, None])[:, 0]
    assert metrics["gen/accuracy"] == pytest.approx(float((scores.argmax(-1) == masked.original).double().mean()))
    assert metrics["gen/cross_entropy"] == pytest.approx(-float(own.mean()), rel=1e-5)
    assert metrics["gen/entropy"] == pytest.approx(-float((log_p.exp() * log_p).sum(-1).mean()), rel=1e-5)
