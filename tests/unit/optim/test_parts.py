"""Parts of the model are trained as the recipe says, each by its own rate, decay, betas and clip."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from electra_scale.optim.adamw import AdamW
from electra_scale.optim.parts import Part, parts_of
from electra_scale.optim.replicated import ReplicatedOptimizer
from electra_scale.recipe.optimizer import PARTS, AdamWSettings, PartSettings
from electra_scale.recipe.phases import Phase, trained_parts
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import PretrainModule
from tests.unit.train.conftest import SAMPLERS, counts_of, gradients, make_batch, make_module


def module_of() -> PretrainModule:
    return make_module(SAMPLERS["hp_loss rms own"])


def parts(module: PretrainModule, **changes: PartSettings) -> dict[str, Part]:
    return {part.name: part for part in parts_of(module, AdamWSettings(parts=changes, generator_rate=0.5))}


def same(value: Tensor) -> Tensor:
    return value


def test_the_model_has_the_parts_that_recipes_name() -> None:
    assert tuple(parts(module_of())) == PARTS
    assert list(parts(make_module(SAMPLERS["hp_loss rms own"], "generator_warmup"))) == list(PARTS[:3])


def test_a_part_is_trained_as_the_rest_but_for_what_is_set() -> None:
    changed = parts(module_of(), generator=PartSettings(rate=0.1, betas=(0.8, 0.9), weight_decay=0.3))["generator"]
    assert (changed.rate, changed.betas, changed.weight_decay) == (0.1, (0.8, 0.9), 0.3)
    usual = parts(module_of())["generator"]
    assert (usual.rate, usual.betas, usual.weight_decay, usual.eps) == (0.5, (0.9, 0.999), 0.01, 1e-6)


def test_a_constant_rate_stays_at_the_peak() -> None:
    found = parts(module_of(), discriminator=PartSettings(rate=2.0, schedule="constant"))
    assert found["discriminator"].at(scheduled=1e-5, peak=1e-3) == 2e-3
    assert found["embeddings"].at(scheduled=1e-5, peak=1e-3) == 1e-5
    groups = AdamW(AdamWSettings()).groups([found["embeddings"], found["discriminator"]])
    assert [(group.get("constant"), group["rate"]) for group in groups] == [(None, 1.0)] * 2 + [(True, 2.0)] * 2


def test_a_generator_rate_of_0_leaves_what_p_depends_on_and_teaches_the_rest_as_before() -> None:
    batch = make_batch()
    plain, left = module_of(), module_of()
    found = {part.name for part in parts_of(left, AdamWSettings(generator_rate=0.0))}
    assert found == {"discriminator", "discriminator_head", "sampler"}
    expected = gradients(plain, [batch], counts_of(batch))
    for name, gradient in gradients(left, [batch], counts_of(batch)).items():
        if name.startswith(("electra.generator", "electra.embeddings")):
            assert not gradient.any(), name
        else:
            assert torch.equal(gradient, expected[name]), name
    # In the warm-up it learns, and a part with a rate of its own does so in the joint phase too.
    warmup = make_module(SAMPLERS["hp_loss rms own"], "generator_warmup")
    assert [part.rate for part in parts_of(warmup, AdamWSettings(generator_rate=0.0))] == [1.0] * 3
    own = AdamWSettings(generator_rate=0.0, parts={"embeddings": PartSettings(rate=0.1)})
    assert parts_of(module_of(), own)[0].name == "embeddings"


def test_a_frozen_part_gets_neither_an_update_nor_a_gradient() -> None:
    module = module_of()
    found = parts(module, generator=PartSettings(frozen=True), embeddings=PartSettings(frozen=True))
    assert set(found) == set(PARTS) - {"generator", "embeddings"}
    batch = make_batch()
    for name, gradient in gradients(module, [batch], counts_of(batch)).items():
        assert bool(gradient.any()) != name.startswith(("electra.generator.", "electra.embeddings.")), name


@pytest.mark.parametrize("phase", ["generator_warmup", "joint"])
@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("name", PARTS)
def test_a_recipe_says_which_parts_train_without_their_modules(name: str, rate: float, phase: Phase) -> None:
    for own in (PartSettings(), PartSettings(rate=0.1), PartSettings(frozen=True), PartSettings(frozen=True, rate=0.1)):
        settings = AdamWSettings(generator_rate=rate, parts={name: own})
        recipe = Recipe(optimizer=settings, corruption=SAMPLERS["hp_loss rms own"])
        module = make_module(SAMPLERS["hp_loss rms own"], phase)
        assert list(trained_parts(recipe, phase)) == [part.name for part in parts_of(module, settings)]


def test_parts_that_are_trained_alike_share_their_groups() -> None:
    found = parts(module_of())
    groups = AdamW(AdamWSettings()).groups([part for part in found.values() if not part.replicated])
    # Two rates, each with and without decay.
    assert [(group["rate"], group["weight_decay"]) for group in groups] == [
        (1.0, 0.01),
        (1.0, 0.0),
        (0.5, 0.01),
        (0.5, 0.0),
    ]
    assert all("betas" not in group for group in groups)


def test_the_sampling_head_is_replicated_with_its_own_rate_and_clip() -> None:
    module = make_module(SAMPLERS["hp_loss rms own"])
    head = parts(module)["sampler"]
    assert (head.replicated, head.rate, head.clip) == (True, 1.0, 1.0)
    assert parts(module, sampler=PartSettings(clip=0.3))["sampler"].clip == 0.3


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_a_replicated_part_is_updated_as_plain_pytorch_does(clip: float) -> None:
    module, plain = module_of(), module_of()
    part = parts(module, generator_head=PartSettings(replicated=True, clip=clip))["generator_head"]
    optimizer = ReplicatedOptimizer(part, AdamW(AdamWSettings()), same)
    batch = make_batch()
    reference = list(plain.electra.generator_head.parameters())
    decayed = [
        {"params": [p for p in reference if (p.dim() > 1) == d], "weight_decay": 0.01 * d} for d in (True, False)
    ]
    theirs = torch.optim.AdamW(decayed, lr=1e-3, betas=(0.9, 0.999), eps=1e-6)
    for _ in range(3):
        for one in (module, plain):
            gradients(one, [batch], counts_of(batch))
        norm = float(optimizer.gather(1.0))
        expected = torch.stack([p.grad.norm() for p in reference]).norm()
        assert norm == pytest.approx(float(expected), rel=1e-5)
        if clip:
            torch.nn.utils.clip_grad_norm_(reference, clip)
        optimizer.step(1e-3, norm)
        theirs.step()
    for ours, other in zip(part.module.parameters(), reference, strict=True):
        assert torch.allclose(ours, other, rtol=1e-4, atol=1e-7)


def test_a_replicated_part_resumes_from_its_state() -> None:
    batch = make_batch()

    def steps(optimizer: ReplicatedOptimizer, module: PretrainModule, number: int) -> None:
        for _ in range(number):
            gradients(module, [batch], counts_of(batch))
            optimizer.step(1e-3, float(optimizer.gather(1.0)))

    def fresh() -> tuple[PretrainModule, ReplicatedOptimizer]:
        module = module_of()
        return module, ReplicatedOptimizer(parts(module)["sampler"], AdamW(AdamWSettings()), same)

    straight, optimizer = fresh()
    steps(optimizer, straight, 2)
    straight.corruptor.sampler.mean_loss = 0.25
    kept: dict[str, Any] = torch.load(_saved(optimizer.state()), weights_only=True)
    steps(optimizer, straight, 1)
    resumed, again = fresh()
    again.load(kept)
    assert resumed.corruptor.sampler.mean_loss == 0.25
    steps(again, resumed, 1)
    for name, value in straight.sampler.state_dict().items():
        assert torch.equal(value, resumed.sampler.state_dict()[name]), name


def test_a_replicated_part_resumes_with_the_settings_of_now() -> None:
    def optimizer(**settings: Any) -> ReplicatedOptimizer:
        part = {part.name: part for part in parts_of(module_of(), AdamWSettings(**settings))}["sampler"]
        return ReplicatedOptimizer(part, AdamW(AdamWSettings(**settings)), same)

    resumed = optimizer(weight_decay=0.3, betas=(0.5, 0.6), eps=1e-3)
    resumed.load(torch.load(_saved(optimizer().state()), weights_only=True))
    decayed, other = resumed.optimizer.param_groups
    assert (decayed["weight_decay"], other["weight_decay"]) == (0.3, 0.0)
    assert all((group["betas"], group["eps"]) == ((0.5, 0.6), 1e-3) for group in (decayed, other))


def _saved(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        ("encoder", PartSettings(), "there is no such part"),
        ("generator", PartSettings(rate=0.0), "parts.generator.rate is 0.0"),
        ("generator", PartSettings(betas=(1.0, 0.9)), "parts.generator.betas"),
        ("generator", PartSettings(weight_decay=-1.0), "parts.generator.weight_decay"),
        ("sampler", PartSettings(clip=-1.0), "parts.sampler.clip is -1.0"),
        ("generator", PartSettings(clip=1.0), "replicated: true"),
    ],
)
def test_a_part_that_makes_no_sense_is_named(name: str, part: PartSettings, words: str) -> None:
    (problem,) = AdamWSettings(parts={name: part}).problems()
    assert words in problem
