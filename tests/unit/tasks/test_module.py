"""The losses of a micro-batch (method.md, sections 2, 6 and 9, checks 1 and 7)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from electra_scale.corruption.corruption import Statistic
from electra_scale.corruption.sampler import Masked
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.batch import Batch
from electra_scale.model.attention.layout import Layout
from electra_scale.optim.adamw import AdamW
from electra_scale.optim.parts import parts_of
from electra_scale.recipe.optimizer import AdamWSettings
from electra_scale.tasks.detection import LISTS
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.sums import Flattener, combine
from tests.unit.train.conftest import (
    LEARNING,
    MODEL,
    SAMPLERS,
    SPECIAL,
    V,
    clock_of,
    contribution,
    counts_of,
    discriminate,
    every_architecture,
    generator_of,
    gradients,
    look_ahead,
    make_batch,
    make_module,
    masked_positions,
)

every_sampler = pytest.mark.parametrize("name", SAMPLERS)


def corrupted(module: PretrainModule, batch: Batch, joint_step: int = 0) -> tuple[Tensor, Masked, Tensor, Tensor]:
    """Ids that the discriminator sees, the generator's pass, drawn tokens and weights."""
    corruptor = generator_of(module)
    with torch.no_grad():
        masked = masked_positions(module, batch)
        drawn = propose(corruptor.sampler, masked, mixture=corruptor.mixture_at(clock_of(module, joint_step)))
    ids = batch.ids.clone().flatten()
    ids[batch.masked] = drawn.tokens
    return ids.view_as(batch.ids), masked, drawn.tokens, drawn.weight


def groups_of(module: PretrainModule) -> list[dict[str, Any]]:
    """What the engine trains, with the generator at half the rate."""
    settings = AdamWSettings(weight_decay=0.01, generator_rate=0.5)
    return AdamW(settings).groups([part for part in parts_of(module, settings) if not part.replicated])


def naive_bce(logits: Tensor, labels: Tensor) -> Tensor:
    probability = torch.sigmoid(logits.double())
    return -torch.where(labels, probability.log(), (1 - probability).log())


@pytest.mark.parametrize("mixture", [0.0, 0.1])
@pytest.mark.parametrize("name", LEARNING)
def test_a_new_sampler_gives_the_losses_and_gradients_of_plain_electra(name: str, mixture: float) -> None:
    """The same draws for the same uniform numbers, weights of 1, and so the same bits (check 1)."""
    batch = make_batch()
    counts = counts_of(batch)
    plain = make_module(SAMPLERS["electra"])
    hard = make_module(SAMPLERS[name], rough=False, mixture=mixture, sampler_weight=0.0)
    plain_loss, plain_sums = contribution(plain, batch, counts)
    hard_loss, hard_sums = contribution(hard, batch, counts)
    assert torch.equal(corrupted(plain, batch)[0], corrupted(hard, batch)[0])
    assert torch.equal(plain_loss, hard_loss)
    for key in set(plain_sums) - {"loss/sampler"}:
        assert torch.equal(plain_sums[key], hard_sums[key]), key
    hard_gradients = gradients(hard, [batch], counts)
    for key, gradient in gradients(plain, [batch], counts).items():
        assert torch.equal(gradient, hard_gradients[key]), key


def test_weights_switched_off_leave_the_draws_and_drop_the_weights() -> None:
    """Hard-negative mining: another objective, never to be mistaken for the weighted one."""
    batch = make_batch()
    weighted = make_module(SAMPLERS["hp_loss rms own"])
    mining = make_module(SAMPLERS["hp_loss rms own"], weight_power=0.0)
    weighted_sums, mining_sums = (contribution(module, batch, counts_of(batch))[1] for module in (weighted, mining))
    assert torch.equal(corrupted(weighted, batch)[0], corrupted(mining, batch)[0])
    assert float(mining_sums["weight"]) == float(mining_sums["weight_squared"]) == len(batch.masked)
    assert float(weighted_sums["weight_squared"]) != len(batch.masked)
    assert float(weighted_sums["loss/discriminator"].detach()) != float(mining_sums["loss/discriminator"].detach())


@every_sampler
def test_the_total_is_the_formula(name: str) -> None:
    batch = make_batch()
    module = make_module(SAMPLERS[name], focal_gamma=1.0, discriminator_weight=7.0, sampler_weight=3.0)
    counts = counts_of(batch)
    loss, sums = contribution(module, batch, counts)
    ids, masked, tokens, weight = corrupted(module, batch)
    p = torch.softmax((masked.features @ masked.word_embeddings.T + masked.bias).double(), -1).gather(
        1, masked.original[:, None]
    )[:, 0]
    generator = (-(1 - p) * p.log()).sum()
    with torch.no_grad():
        logits, _ = discriminate(module, ids, batch)
        # Replaced means different from the original: a draw of the original counts as original.
        losses = naive_bce(logits, ids != batch.ids)
        drawn = propose(module.sampler, masked)
        at_masked = losses.flatten()[batch.masked]
        sampler = module.sampler.loss(masked, drawn, at_masked).sum() if module.sampler.learns else torch.zeros(())
    factor = torch.ones_like(losses).flatten()
    factor[batch.masked] = weight.double() ** generator_of(module).settings.power
    real = (batch.segment >= 0).flatten()
    discriminator = (losses.flatten() * factor * real).sum()
    assert float(sums["loss/generator"]) == pytest.approx(float(generator), rel=1e-5)
    assert float(sums["loss/discriminator"]) == pytest.approx(float(discriminator), rel=1e-5)
    assert float(sums["loss/sampler"]) == pytest.approx(float(sampler), rel=1e-4)
    total = generator / counts["masked"] + 7 * discriminator / counts["tokens"] + 3 * sampler / counts["masked"]
    assert float(loss.detach()) == pytest.approx(float(total), rel=1e-5)
    assert int(sums["identical"]) == int((tokens == masked.original).sum())
    assert module.count("tokens", batch) == int(real.sum()) == int(counts["tokens"])
    assert module.count("masked", batch) == len(batch.masked)


@every_architecture
@every_sampler
def test_one_batch_of_eight_gives_the_gradients_of_two_of_four(name: str, architecture: str) -> None:
    whole, halves = make_batch(), [make_batch(0, 4), make_batch(4, 4)]
    counts = counts_of(whole)
    assert counts == counts_of(*halves)
    # Unequal shares, so that a mean of means would show.
    assert len(halves[0].masked) != len(halves[1].masked)
    module = make_module(SAMPLERS[name], architecture=architecture, focal_gamma=1.0)
    together, split = gradients(module, [whole], counts), gradients(module, halves, counts)
    for key, gradient in together.items():
        assert gradient.any(), key
        assert (gradient - split[key]).norm() <= 1e-5 * gradient.norm(), key


@every_sampler
def test_sums_of_micro_batches_are_those_of_the_whole(name: str) -> None:
    whole, parts = make_batch(), [make_batch(0, 3), make_batch(3, 1), make_batch(4, 4)]
    module = make_module(SAMPLERS[name])
    counts = counts_of(whole)
    _, expected = contribution(module, whole, counts)

    def statistics(part: Batch) -> list[Statistic]:
        found: list[Statistic] = module(part, Layout.of(part.segment), clock_of(module), counts, 1.0, True)[1]
        return found

    flattener = Flattener(statistics(whole))
    total: Tensor | None = None
    for part in parts:
        vector = flattener.pack(statistics(part))
        total = combine(total, vector, flattener.maximum_mask())
    assert total is not None
    found = flattener.unpack(total.numpy())
    for key, value in expected.items():
        if key != "rank_correlation" and key not in LISTS:
            assert torch.allclose(torch.from_numpy(found[key]), value.reshape(-1).double(), rtol=1e-5), key


def test_the_loss_scale_multiplies_the_loss_and_nothing_else() -> None:
    batch, module = make_batch(), make_module(SAMPLERS["hp_loss rms own"])
    (one, sums), (six, same) = (contribution(module, batch, counts_of(batch), scale, False) for scale in (1.0, 6.0))
    assert torch.allclose(six, 6 * one)
    assert all(torch.equal(value, same[key]) for key, value in sums.items())


def test_the_generator_sees_the_mask_where_it_should_and_the_token_elsewhere() -> None:
    batch, module = make_batch(), make_module(SAMPLERS["electra"])
    seen: list[Tensor] = []
    module.electra.embeddings.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    masked_positions(module, batch)
    expected = batch.ids.clone().flatten()
    expected[batch.masked[batch.shown_as_mask]] = SPECIAL.mask
    assert 0 < int(batch.shown_as_mask.sum()) < len(batch.masked)
    assert torch.equal(seen[0].flatten(), expected)


@every_architecture
def test_what_stands_in_the_padding_changes_nothing(architecture: str) -> None:
    batch, other = make_batch(), make_batch()
    padding = other.segment < 0
    assert padding.any()
    other.ids[padding] = 9
    module = make_module(SAMPLERS["hp_loss rms own"], architecture=architecture)
    counts = counts_of(batch)
    one, two = (gradients(module, [part], counts) for part in (batch, other))
    for key, gradient in one.items():
        if "embeddings.word" not in key:
            assert torch.allclose(gradient, two[key], rtol=1e-5, atol=1e-7), key


@every_architecture
def test_documents_of_a_row_do_not_see_each_other(architecture: str) -> None:
    """Another neighbour in the same row leaves a document's scores as they were."""
    batch, other = make_batch(), make_batch()
    row = next(row for row in range(8) if batch.segment[row].max() > 0)
    neighbour = other.segment[row] > 0
    other.ids[row, neighbour] = (other.ids[row, neighbour] + 7) % V
    module = make_module(SAMPLERS["electra"], architecture=architecture)
    place, position = batch.masked // batch.ids.shape[1], batch.masked % batch.ids.shape[1]
    elsewhere = (place != row) | (batch.segment[row, position] == 0)
    features, changed = (masked_positions(module, part).features for part in (batch, other))
    assert torch.allclose(features[elsewhere], changed[elsewhere], atol=1e-6)
    assert ((place == row) & elsewhere).any()


def test_detection_is_measured_at_ordinary_tokens() -> None:
    batch, module = make_batch(), make_module(SAMPLERS["electra"])
    ordinary = module.task.ordinary(batch)
    assert torch.equal(ordinary, ~torch.isin(batch.ids, torch.tensor([SPECIAL.pad, SPECIAL.cls, SPECIAL.sep])))


def test_a_warm_up_trains_the_generator_alone() -> None:
    batch, module = make_batch(), make_module(SAMPLERS["hp_loss rms own"], "generator_warmup")
    loss, sums = contribution(module, batch, counts_of(batch))
    assert float(loss.detach()) == pytest.approx(float(sums["loss/generator"]) / len(batch.masked))
    for key, gradient in gradients(module, [batch], counts_of(batch)).items():
        trained = key.startswith(("electra.embeddings", "electra.generator"))
        assert bool(gradient.any()) == trained, key


def test_a_batch_without_masked_positions_teaches_the_discriminator_only() -> None:
    whole = make_batch()
    none = Batch(whole.ids, whole.segment, *(part[:0] for part in (whole.masked, whole.shown_as_mask, whole.uniform)))
    module = make_module(SAMPLERS["hp_loss rms own"])
    loss, _ = contribution(module, none, counts_of(whole))
    assert loss.isfinite()
    found = gradients(module, [none], counts_of(whole))
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert any(gradient.any() for key, gradient in found.items() if "discriminator" in key)
    assert not any(gradient.any() for key, gradient in found.items() if "generator" in key or "sampler" in key)


@every_sampler
def test_each_trained_parameter_is_in_exactly_one_group(name: str) -> None:
    module = make_module(SAMPLERS[name])
    groups = groups_of(module)
    names = {id(parameter): key for key, parameter in module.named_parameters()}
    listed: list[str] = []
    for group in groups:
        for parameter in group["params"]:
            key = names[id(parameter)]
            listed.append(key)
            plain = "norm" in key or key.endswith(("bias", "gain"))
            assert group["weight_decay"] == (0.0 if plain else 0.01), key
            slow = key.startswith(("electra.generator.", "electra.generator_head."))
            assert group["rate"] == (0.5 if slow else 1.0), key
    # The sampler has an optimizer of its own.
    assert sorted(listed) == sorted(key for key in names.values() if not key.startswith("sampler."))


def test_a_warm_up_gives_the_optimizer_what_it_trains_and_no_more() -> None:
    module = make_module(SAMPLERS["hp_loss rms own"], "generator_warmup")
    groups = groups_of(module)
    # The generator's own pace is for the joint phase.
    assert all(group["rate"] == 1.0 for group in groups)
    listed = {id(parameter) for group in groups for parameter in group["params"]}
    for key, parameter in module.named_parameters():
        assert (id(parameter) in listed) == key.startswith(("electra.embeddings", "electra.generator")), key


def test_the_model_of_these_tests_has_no_dropout() -> None:
    """Exactness across splits is promised for dropout 0."""
    assert MODEL.dropout == MODEL.attention_dropout == 0


def test_no_weight_exceeds_the_clip() -> None:
    batch = make_batch()
    plain, clipped = (make_module(SAMPLERS["hp_loss rms own"], weight_clip=clip) for clip in (None, 1.02))
    before, after = (contribution(module, batch, counts_of(batch))[1] for module in (plain, clipped))
    assert float(before["weight_max"]) > 1.02
    assert float(after["weight_max"]) == pytest.approx(1.02)
    assert float(after["loss/discriminator"]) < float(before["loss/discriminator"])


@pytest.mark.parametrize("name", LEARNING)
def test_before_its_start_a_sampler_draws_like_plain_electra_and_learns(name: str) -> None:
    batch = make_batch()
    plain, early = make_module(SAMPLERS["electra"]), make_module(SAMPLERS[name], start_after=3)
    for step in range(5):
        same = torch.equal(corrupted(plain, batch)[0], corrupted(early, batch, step)[0])
        weights = corrupted(early, batch, step)[3]
        assert bool((weights == 1).all()) == (step < 3)
        assert same or step >= 3
        found = gradients(early, [batch], counts_of(batch), step)
        assert any(gradient.any() for key, gradient in found.items() if key.startswith("sampler."))


@every_architecture
@every_sampler
def test_a_step_drawn_ahead_is_the_step_itself_while_nothing_has_moved(name: str, architecture: str) -> None:
    batch = make_batch()
    module = make_module(SAMPLERS[name], architecture=architecture)
    loss, sums = contribution(module, batch, counts_of(batch))
    again, other = contribution(module, batch, counts_of(batch), ahead=look_ahead(module, batch))
    assert float(again) == pytest.approx(float(loss), rel=1e-5)
    assert float(other["stale"]) == len(batch.masked)
    assert float(sums["stale"]) == 0
    assert float(other["drift"]) < 1e-4


def test_false_negatives_are_replaced_draws_that_the_generator_rates_above_the_original() -> None:
    batch, module = make_batch(), make_module(SAMPLERS["hp_loss rms own"])
    _, masked, tokens, _ = corrupted(module, batch)
    scores = masked.features @ masked.word_embeddings.T + masked.bias
    above = (scores.gather(1, tokens[:, None]) > scores.gather(1, masked.original[:, None]))[:, 0]
    _, sums = contribution(module, batch, counts_of(batch))
    assert int(sums["false_negatives"]) == int((above & (tokens != masked.original)).sum()) > 0
    assert int(sums["replaced_draws"]) + int(sums["identical"]) == len(tokens)
    assert int(sums["hard_false_negatives"]) <= int(sums["hard_draws"]) < int(sums["replaced_draws"])


def test_a_step_drawn_ahead_uses_the_old_tokens_with_the_weights_of_now() -> None:
    batch = make_batch()
    module = make_module(SAMPLERS["hp_loss rms own"])
    ahead = look_ahead(module, batch)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.1)
    _, sums = contribution(module, batch, counts_of(batch), ahead=ahead)
    with torch.no_grad():
        masked = masked_positions(module, batch)
        log_p = torch.log_softmax(masked.features @ masked.word_embeddings.T + masked.bias, -1)
        weight = (log_p.gather(1, ahead.tokens[:, None])[:, 0] - ahead.log_q).exp()
    assert float(sums["weight"]) == pytest.approx(float(weight.double().sum()), rel=1e-5)
    assert float(sums["drift"]) > 1e-3
