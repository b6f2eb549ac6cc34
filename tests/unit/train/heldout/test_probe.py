"""The variance probe: right against plain loops, the same on any number of ranks, and without side effects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from electra_scale.cluster.ranks import Alone
from electra_scale.corruption.corruption import Clock
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.loader import Loader
from electra_scale.data.noise import uniforms
from electra_scale.monitor.draw_variance import Redrawn, draw_figures
from electra_scale.tasks.module import PretrainModule
from electra_scale.train.heldout.probe import probe
from tests.unit.train.conftest import (
    LEARNING,
    SAMPLERS,
    S,
    discriminate,
    generator_of,
    make_loader,
    make_module,
    masked_positions,
)

CPU = torch.device("cpu")
CLOCK = Clock(7, 0, "joint", 7, 10)


def probed(
    module: PretrainModule, samples: int = 5, draws: int = 6, share: float = 0.3, micro: int = 4, rows: int = 20
) -> Redrawn:
    return probe(module, make_loader(rows), samples, draws, share, micro, Alone(CPU), CLOCK)


def one_draw(module: PretrainModule, loader: Loader, row: int, draw: int, from_p: bool) -> dict[str, Tensor]:
    """A draw for one row as training would make it, and every parameter's gradient of its loss sum."""
    batch = loader.batch(0, row, 1, 0.3)
    sample = loader.order.places(np.array([row])).sample
    masked = masked_positions(module, batch)
    masked.uniform = torch.from_numpy(uniforms(loader.seed, np.array([draw]), sample, S, "probe")[0])[batch.masked]
    drawn = propose(ElectraSampler() if from_p else generator_of(module).sampler, masked)
    ids = batch.ids.flatten().index_copy(0, batch.masked, drawn.tokens).view_as(batch.ids)
    _, loss = discriminate(module, ids, batch)
    weight = (batch.segment >= 0).float().flatten()
    weight[batch.masked] = drawn.weight ** generator_of(module).settings.power
    module.zero_grad()
    (loss.flatten() * weight).sum().backward()
    found = {
        "loss": loss.detach().flatten()[batch.masked],
        "weight": weight[batch.masked],
        "hardness": drawn.hardness,
        "kept": drawn.tokens == masked.original,
    }
    electra = module.electra
    for name, part in (("head", electra.discriminator_head), ("last layer", electra.discriminator.layers[-1])):
        gradients = [parameter.grad for parameter in part.parameters()]
        found[name] = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
    return found


@pytest.mark.parametrize(
    ("name", "architecture"),
    [*((name, "bert") for name in SAMPLERS if "mean" not in name), ("hp_loss rms own", "modern")],
)
def test_the_figures_are_those_of_a_plain_loop_over_rows_and_draws(name: str, architecture: str) -> None:
    module = make_module(SAMPLERS[name], architecture=architecture).eval()
    loader, samples, draws = make_loader(20), 5, 6
    by_side: dict[str, dict[str, list[Tensor]]] = {}
    for side in "pq":
        rows = [[one_draw(module, loader, row, draw, side == "p") for draw in range(draws)] for row in range(samples)]
        by_side[side] = {key: [torch.stack([draw[key] for draw in row]) for row in rows] for key in rows[0][0]}
    tokens = sum(int((loader.batch(0, row, 1, 0.3).segment >= 0).sum()) for row in range(samples))
    losses = {
        side: [w * x for w, x in zip(found["weight"], found["loss"], strict=True)] for side, found in by_side.items()
    }
    positions = sum(row.shape[1] for row in losses["p"])
    figures = draw_figures(probed(module))
    for side in "pq":
        by_position = torch.cat([row.var(0) for row in losses[side]]).mean()
        assert figures[f"draw_{side}"] == pytest.approx(float(by_position), rel=1e-4)
        of_sums = sum(float(row.sum(1).var()) for row in losses[side])
        assert figures[f"batch_mean_{side}"] == pytest.approx(of_sums / positions**2, rel=1e-4)
        for part in ("head", "last layer"):
            trace = sum(float(row.var(0).sum()) for row in by_side[side][part])
            assert figures[f"gradient_{side} {part}"] == pytest.approx(trace / tokens**2, rel=1e-3)
        kept = torch.cat([row.flatten() for row in by_side[side]["kept"]])
        assert figures[f"identical_{side}"] == pytest.approx(float(kept.float().mean()))
    weight = torch.cat([row.flatten() for row in by_side["q"]["weight"]]).double()
    assert figures["weight_max"] == pytest.approx(float(weight.max()), rel=1e-5)
    assert figures["ess"] == pytest.approx(float(weight.sum() ** 2 / weight.square().sum() / len(weight)), rel=1e-5)
    mean_p, mean_q = (float(torch.cat([row.flatten() for row in losses[side]]).mean()) for side in "pq")
    assert figures["mean_difference"] == pytest.approx(mean_q - mean_p, abs=1e-6)
    assert figures["positions"] == positions


@pytest.mark.parametrize("name", [name for name, settings in SAMPLERS.items() if settings.power == 1])
def test_the_mean_of_the_weighted_loss_is_that_of_an_enumeration_over_the_vocabulary(name: str) -> None:
    """One masked position a row, since only given the other replacements are the two means equal."""
    module = make_module(SAMPLERS[name]).eval()
    loader, samples = make_loader(20), 8
    expected = 0.0
    with torch.no_grad():
        for row in range(samples):
            batch = loader.batch(0, row, 1, 0.02)
            masked = masked_positions(module, batch)
            assert len(masked.original) == 1
            scores = masked.features @ masked.word_embeddings.T + masked.bias
            for token, chance in enumerate(scores.softmax(-1)[0]):
                ids = batch.ids.flatten().index_fill(0, batch.masked, token).view_as(batch.ids)
                expected += float(chance * discriminate(module, ids, batch)[1].flatten()[batch.masked])
    figures = draw_figures(probed(module, samples, draws=300, share=0.02, micro=300))
    error = figures["mean_difference_error"]
    assert 0 < error < 0.05 * figures["mean_loss_p"]
    assert abs(figures["mean_difference"]) < 4 * error
    spread = (figures["draw_q"] / (samples * 300)) ** 0.5
    assert abs(figures["mean_weighted_loss_q"] - expected / samples) < 4 * spread


@pytest.mark.parametrize("name", [*LEARNING, "electra"])
def test_a_new_head_changes_nothing(name: str) -> None:
    found = probed(make_module(SAMPLERS[name], rough=False))
    figures = draw_figures(found)
    assert figures["draw_ratio"] == 1.0
    assert figures["gradient_ratio"] == 1.0
    assert figures["weight_max"] == figures["ess"] == 1.0
    assert np.array_equal(found.loss_p, found.loss_q)
    assert figures["draw_p"] > 0


class TwoPasses:
    """Ranks in one process: the first pass collects what each gives, the second hands out the sums."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.given: list[list[Tensor]] = []

    def rank(self, number: int, second: bool) -> Alone:
        totals = [torch.stack(values).sum(0) for values in zip(*self.given, strict=True)] if second else []
        given: list[Tensor] = []
        if not second:
            self.given.append(given)

        class Rank(Alone):
            def sum(self, value: Tensor) -> Tensor:
                given.append(value.clone())
                return totals[len(given) - 1].clone() if second else value

        return Rank(CPU, number, self.size)


@pytest.mark.parametrize(("size", "micro"), [(1, 1), (1, 5), (2, 3), (3, 6), (8, 4)])
def test_any_number_of_ranks_and_any_micro_batch_give_the_same_figures(size: int, micro: int) -> None:
    module = make_module(SAMPLERS["hp_loss rms own"])
    alone = draw_figures(probed(module))
    ranks = TwoPasses(size)
    for second in (False, True):
        for number in range(size):
            found = probe(module, make_loader(20), 5, 6, 0.3, micro, ranks.rank(number, second), CLOCK)
            if second:
                assert draw_figures(found) == pytest.approx(alone, rel=1e-4, abs=1e-9)


def test_the_inputs_do_not_depend_on_how_many_are_asked_for() -> None:
    module = make_module(SAMPLERS["hp_loss rms own"])
    few, many = probed(module, samples=3, draws=4), probed(module, samples=5, draws=6)
    assert np.allclose(few.loss_q, many.loss_q[: len(few.sample), :4], atol=1e-6)
    assert np.array_equal(few.original, many.original[: len(few.sample)])


def test_more_samples_than_there_are_rows_are_the_rows() -> None:
    module = make_module(SAMPLERS["electra"])
    assert len(probed(module, samples=10**6, rows=5).gradient_p) == make_loader(5).samples


@pytest.mark.parametrize("training", [True, False])
def test_a_probe_leaves_no_trace(training: bool) -> None:
    module = make_module(SAMPLERS["hp_loss rms own"]).train(training)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    kept = torch.ones_like(module.electra.discriminator_head.output.weight)
    module.electra.discriminator_head.output.weight.grad = kept.clone()
    modes: list[bool] = []
    handle = module.electra.embeddings.register_forward_pre_hook(lambda part, _inputs: modes.append(part.training))
    state = torch.get_rng_state()
    probed(module)
    handle.remove()
    assert modes
    assert not any(modes)
    assert module.training == training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(module.electra.discriminator_head.output.weight.grad, kept)
    assert sum(parameter.grad is not None for parameter in module.parameters()) == 1
    assert not any(part._forward_hooks for part in module.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_mode_comes_back_after_a_failure() -> None:
    module = make_module(SAMPLERS["electra"]).train()
    with pytest.raises(RuntimeError, match="enough"):
        probe(module, make_loader(20), 5, 6, 0.3, 4, Alone(CPU), CLOCK, advance=_fail)
    assert module.training


def _fail() -> None:
    raise RuntimeError("enough")
