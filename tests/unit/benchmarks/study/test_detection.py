"""The common test: every discriminator meets the same replacements, whatever generator its own run has."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from benchmarks.study.detection import calibration, corrupted, detection, measured
from electra_scale.recipe.task import MaskedTokensSettings
from electra_scale.tasks.masked_tokens import MaskedTokens
from electra_scale.tasks.module import PretrainModule
from tests.unit.train.conftest import (
    MODELS,
    SAMPLERS,
    SPECIAL,
    discriminate,
    make_batch,
    make_module,
    masked_positions,
    roughen,
)


@pytest.fixture
def discriminator() -> PretrainModule:
    return make_module(SAMPLERS["hp_loss rms own"])


@pytest.fixture
def generator() -> PretrainModule:
    module = make_module(SAMPLERS["electra"])
    roughen(module, 9)
    return module


def test_the_result_does_not_depend_on_the_runs_own_generator_or_sampler(
    discriminator: PretrainModule, generator: PretrainModule
) -> None:
    found = detection(discriminator, generator, [make_batch()])
    other = copy.deepcopy(discriminator)
    for part in (other.electra.generator, other.electra.generator_head, other.sampler):
        roughen(part, 11)
    assert detection(other, generator, [make_batch()]) == found
    assert calibration(other, [make_batch()]) != calibration(discriminator, [make_batch()])


def test_the_replacements_do_not_depend_on_the_discriminator(
    discriminator: PretrainModule, generator: PretrainModule
) -> None:
    batch = make_batch()
    ids = corrupted(generator, batch)
    outside = torch.ones(batch.ids.numel(), dtype=torch.bool)
    outside[batch.masked] = False
    assert torch.equal(ids.flatten()[outside], batch.ids.flatten()[outside])
    assert not torch.equal(ids, batch.ids)
    for part in (generator.electra.discriminator, generator.electra.discriminator_head):
        roughen(part, 12)
    assert torch.equal(corrupted(generator, batch), ids)
    assert not torch.equal(corrupted(discriminator, batch), ids)


def test_the_discriminator_decides(discriminator: PretrainModule, generator: PretrainModule) -> None:
    found = detection(discriminator, generator, [make_batch()])
    roughen(discriminator.electra.discriminator, 13)
    assert detection(discriminator, generator, [make_batch()]) != found


def test_auc_is_the_share_of_pairs_in_the_right_order(discriminator: PretrainModule, generator: PretrainModule) -> None:
    batches = [make_batch(0, 4), make_batch(4, 4)]
    logits, replaced = [], []
    for batch in batches:
        ids = corrupted(generator, batch)
        counted = discriminator.task.ordinary(batch)
        logits.append(discriminate(discriminator, ids, batch)[0][counted])
        replaced.append((ids != batch.ids)[counted])
    labels = torch.cat(replaced).numpy()
    ranks = rankdata(torch.cat(logits).detach().numpy())
    positives, negatives = labels.sum(), (~labels).sum()
    expected = (ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    assert detection(discriminator, generator, batches)["auc"] == pytest.approx(expected, abs=0.01)


def test_how_samples_are_batched_does_not_matter(discriminator: PretrainModule, generator: PretrainModule) -> None:
    together, apart = [make_batch()], [make_batch(0, 4), make_batch(4, 4)]
    assert detection(discriminator, generator, together) == pytest.approx(detection(discriminator, generator, apart))
    assert calibration(discriminator, together) == pytest.approx(calibration(discriminator, apart))


def test_calibration_is_that_of_the_whole_distribution(generator: PretrainModule) -> None:
    batch = make_batch()
    masked = masked_positions(generator, batch)
    p = (masked.features @ masked.word_embeddings.T + masked.bias).softmax(-1).detach().double().numpy()
    original = masked.original.numpy()
    own, top = p[np.arange(len(p)), original], p.max(1)
    right = (p.argmax(1) == original).astype(float)
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (top >= low) & (top < low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(top[inside].mean() - right[inside].mean())
    found = calibration(generator, [batch])
    assert found["generator_cross_entropy"] == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert found["generator_probability"] == pytest.approx(own.mean(), rel=1e-5)
    assert found["generator_accuracy"] == right.mean()
    assert found["expected_calibration_error"] == pytest.approx(error, rel=1e-5)


def test_a_generator_that_knows_the_answer_is_perfectly_calibrated() -> None:
    module = make_module(SAMPLERS["electra"])
    batch = make_batch()
    only = int(batch.ids.flatten()[batch.masked[0]])
    with torch.no_grad():
        module.electra.generator_head.bias[only] = 1e4
    alike = batch.ids.flatten()[batch.masked] == only
    batch.masked, batch.shown_as_mask, batch.uniform = (
        part[alike] for part in (batch.masked, batch.shown_as_mask, batch.uniform)
    )
    found = calibration(module, [batch])
    assert found["generator_accuracy"] == found["generator_probability"] == 1.0
    assert found["expected_calibration_error"] == 0.0


def test_against_several_generators_the_figures_are_means(
    discriminator: PretrainModule, generator: PretrainModule
) -> None:
    other = copy.deepcopy(generator)
    roughen(other.electra.generator, 14)
    generators, batches = {"one": generator, "other": other}, [make_batch()]
    found = measured(discriminator, generators, batches)
    apart = {name: detection(discriminator, module, batches) for name, module in generators.items()}
    assert apart["one"] != apart["other"]
    assert found["by_generator"] == apart
    for name in ("auc", "discriminator_loss"):
        assert found[name] == pytest.approx((apart["one"][name] + apart["other"][name]) / 2)


def test_of_masked_prediction_alone_only_what_it_predicts_is_measured(generator: PretrainModule) -> None:
    alone, batches = copy.deepcopy(generator), [make_batch()]
    alone.task = MaskedTokens(MaskedTokensSettings(), MODELS["bert"], SPECIAL)
    expected = calibration(generator, batches)["generator_cross_entropy"]
    assert measured(alone, {"one": generator}, batches) == {"generator_cross_entropy": expected}
