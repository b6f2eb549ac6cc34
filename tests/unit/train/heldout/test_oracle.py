"""The oracle against plain loops over every token of a small vocabulary, and over draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from electra_scale.corruption.corruption import Clock
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.noise import uniforms
from electra_scale.monitor.oracle_figures import OracleRow
from electra_scale.tasks.module import PretrainModule
from electra_scale.train.heldout.oracle import OracleSettings, measure_row
from tests.unit.train.conftest import (
    SAMPLERS,
    S,
    V,
    discriminate,
    generator_of,
    make_loader,
    make_module,
    masked_positions,
)

SETTINGS = OracleSettings(
    candidates=V - 1, draws=6, groups=2, mixture=0.0, micro_batch=4, clock=Clock(7, 0, "joint", 7, 10)
)
ROW, SHARE = 2, 0.3


def measured(module: PretrainModule, settings: OracleSettings = SETTINGS) -> OracleRow:
    return measure_row(module, make_loader(20), ROW, SHARE, settings, torch.device("cpu"))


def numbers(purpose: str, draw: int) -> Tensor:
    """Uniform numbers (S,) of the row."""
    loader = make_loader(20)
    sample = loader.order.places(np.array([ROW])).sample
    return torch.from_numpy(uniforms(loader.seed, np.array([draw]), sample, S, purpose)[0])


@pytest.mark.parametrize("name", ["hp_loss rms own", "temperature"])
def test_the_variances_at_one_position_are_those_of_an_enumeration(name: str) -> None:
    module = make_module(SAMPLERS[name]).eval()
    found = measured(module).enumerated
    batch = make_loader(20).rows(np.array([ROW]), SHARE)
    expected: dict[str, float] = dict.fromkeys(("p", "own", "p gradient", "own gradient", "least"), 0.0)
    with torch.no_grad():
        masked = masked_positions(module, batch)
        masked.uniform = numbers("oracle", 0)[batch.masked]
        others = propose(ElectraSampler(), masked).tokens
        settings = generator_of(module)
        blocks = generator_of(module).distributions(settings.replaced(batch, masked, None), SETTINGS.clock)
        p, q = (torch.cat(parts) for parts in zip(*((block.p, block.q) for block in blocks), strict=True))
        for place, position in enumerate(batch.masked):
            losses, slopes = torch.zeros(V).double(), torch.zeros(V).double()
            for token in range(V):
                ids = batch.ids.flatten().index_copy(0, batch.masked, others)
                ids[position] = token
                logits, loss = discriminate(module, ids.view_as(batch.ids), batch)
                losses[token] = loss.flatten()[position]
                sigma = logits.flatten()[position].double().sigmoid()
                slopes[token] = sigma - float(token != masked.original[place])
            for source, chance in (("p", p[place]), ("own", q[place])):
                for what, value in (("", losses), (" gradient", slopes)):
                    weighted = p[place] / chance * value
                    expected[source + what] += float(chance @ weighted**2 - (chance @ weighted) ** 2)
            # 4 a b (docs/method.md, section 13).
            positive = p[place] * slopes
            expected["least"] -= float(4 * positive[positive > 0].sum() * positive[positive < 0].sum())
    own = "own" if name == "temperature" else "head"
    assert found.covered == pytest.approx(len(batch.masked))
    assert found.loss["p"] == pytest.approx(expected["p"], rel=1e-4)
    assert found.loss[own] == pytest.approx(expected["own"], rel=1e-4)
    assert found.gradient["p"] == pytest.approx(expected["p gradient"], rel=1e-4)
    assert found.gradient[own] == pytest.approx(expected["own gradient"], rel=1e-4)
    assert found.least_gradient == pytest.approx(expected["least"], rel=1e-4)
    # Who knows every loss reaches the best of each, where no draw comes from p.
    assert found.loss["oracle_loss"] < 1e-5 * found.loss["p"]
    assert found.gradient["oracle_gradient"] == pytest.approx(found.least_gradient, rel=1e-4)
    assert found.least_gradient < found.gradient[own]


def test_redraws_are_those_of_a_plain_loop_over_draws() -> None:
    """Full weights and originals, whatever the recipe trains with."""
    partial = replace(SAMPLERS["hp_loss rms own"], weight_power=0.5, allow_original=False)
    module = make_module(partial).eval()
    found = measured(module).redraws
    assert list(found) == ["p", "head", "oracle_loss", "oracle_gradient"]
    assert not generator_of(module).sampler.allow_original
    generator_of(module).sampler.allow_original = True
    batch = make_loader(20).rows(np.array([ROW]), SHARE)
    electra = module.electra
    parameters = [*electra.embeddings.parameters(), *electra.discriminator.parameters()]
    parameters += electra.discriminator_head.parameters()
    for name, sampler in (("p", ElectraSampler()), ("head", generator_of(module).sampler)):
        sums, gradients, weights = [], [], []
        for draw in range(SETTINGS.draws):
            masked = masked_positions(module, batch)
            masked.uniform = numbers("probe", draw)[batch.masked]
            drawn = propose(sampler, masked)
            ids = batch.ids.flatten().index_copy(0, batch.masked, drawn.tokens).view_as(batch.ids)
            loss = (discriminate(module, ids, batch)[1] * (batch.segment >= 0)).flatten()
            at_masked = (loss[batch.masked] * drawn.weight).sum()
            losses = (at_masked, loss.sum() - loss[batch.masked].sum())
            sums.append([float(one.detach()) for one in (*losses, sum(losses))])
            by_loss = [torch.autograd.grad(one, parameters, retain_graph=True) for one in (*losses, sum(losses))]
            gradients.append(torch.stack([torch.cat([part.flatten() for part in one]) for one in by_loss]))
            weights.append(drawn.weight)
        one = found[name]
        for group, part in enumerate((slice(0, 3), slice(3, 6))):
            np.testing.assert_allclose(one.sum[group], np.var(sums[part], axis=0, ddof=1), rtol=1e-3)
            expected = torch.stack(gradients[part]).var(0).sum(-1)
            summed = np.sum([by_group[group] for by_group in one.gradient.values()], axis=0)
            np.testing.assert_allclose(summed, expected, rtol=1e-3)
        np.testing.assert_allclose(one.mean, np.mean(sums, axis=0), rtol=1e-4)
        assert one.weight_max == pytest.approx(float(torch.cat(weights).max()), rel=1e-5)


def test_any_micro_batch_gives_the_same_and_nothing_is_left_behind() -> None:
    module = make_module(SAMPLERS["hp_loss rms own"]).eval()
    state = torch.get_rng_state()
    few, many = (measured(module, replace(SETTINGS, candidates=5, micro_batch=size)) for size in (2, 50))
    np.testing.assert_allclose(few.redraws["head"].sum, many.redraws["head"].sum, rtol=1e-3)
    assert few.enumerated.loss == pytest.approx(many.enumerated.loss, rel=1e-4)
    assert 0.3 * few.masked < few.enumerated.covered < few.masked
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_plain_electra_has_no_sampler_of_its_own() -> None:
    found = measured(make_module(SAMPLERS["electra"]).eval(), replace(SETTINGS, candidates=2))
    assert list(found.redraws) == ["p", "oracle_loss", "oracle_gradient"]
