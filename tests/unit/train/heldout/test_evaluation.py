"""Evaluation on held-out text: the same on any number of ranks, whatever sampler trains, and without side effects."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.loader import Loader
from electra_scale.train.heldout.evaluation import evaluate
from tests.unit.train.conftest import SAMPLERS, make_loader, make_module


class Waiting(Exception):
    """A rank has given its sum, and the others have not."""


class Ranks:
    """Worlds of several ranks in one process: each rank's sum is kept, then all get the total."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sums: list[Tensor] = []
        self.total: Tensor | None = None

    def world(self, rank: int) -> Any:
        ranks = self

        class World:
            size = ranks.size
            device = torch.device("cpu")

            def __init__(self) -> None:
                self.rank = rank

            def sum(self, value: Tensor) -> Tensor:
                if ranks.total is None:
                    ranks.sums.append(value.clone())
                    raise Waiting
                return ranks.total.clone()

        return World()


def evaluated(
    name: str = "electra",
    ranks: int = 1,
    micro_batch: int = 4,
    samples: int = 13,
    phase: Any = "joint",
    loader: Loader | None = None,
) -> list[dict[str, float]]:
    """What each rank gets."""
    module = make_module(SAMPLERS[name], phase)
    loader = loader or make_loader(20)
    together = Ranks(ranks)
    worlds = [together.world(rank) for rank in range(ranks)]
    for world in worlds:
        with pytest.raises(Waiting):
            evaluate(module, loader, samples, 0.15, micro_batch, world)
    together.total = torch.stack(together.sums).sum(0)
    return [evaluate(module, loader, samples, 0.15, micro_batch, world) for world in worlds]


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 1), (1, 13), (2, 4), (3, 2), (5, 3), (8, 4), (16, 4)])
def test_any_number_of_ranks_and_any_micro_batch_give_the_same_numbers(ranks: int, micro_batch: int) -> None:
    (alone,) = evaluated()
    assert len(alone) == 4
    for metrics in evaluated(ranks=ranks, micro_batch=micro_batch):
        assert metrics == pytest.approx(alone, rel=1e-5)


def test_the_numbers_are_those_of_a_plain_loop_over_the_rows() -> None:
    loader = make_loader(20)
    module = make_module(SAMPLERS["electra"]).eval()
    entropy, hits, masked_count, detection, tokens = 0.0, 0, 0, 0.0, 0
    scored: list[tuple[float, bool]] = []
    for row in range(13):
        batch = loader.batch(0, row, 1, 0.15)
        with torch.no_grad():
            masked = module.masked_positions(batch)
            log_p = torch.log_softmax(masked.features @ masked.word_embeddings.T + masked.bias, -1)
            drawn = propose(module.sampler, masked).tokens
            ids = batch.ids.flatten().index_copy(0, batch.masked, drawn).view_as(batch.ids)
            logits, losses = module.discriminate(ids, batch)
        entropy -= float(log_p[torch.arange(len(log_p)), masked.original].sum())
        hits += int((log_p.argmax(-1) == masked.original).sum())
        masked_count += len(masked.original)
        real = batch.segment >= 0
        detection += float(losses[real].sum())
        tokens += int(real.sum())
        ordinary = module.ordinary(batch)
        scored += zip(logits[ordinary].tolist(), (ids != batch.ids)[ordinary].tolist(), strict=True)
    (metrics,) = evaluated(loader=loader)
    assert metrics["eval/generator_cross_entropy"] == pytest.approx(entropy / masked_count, rel=1e-5)
    assert metrics["eval/generator_accuracy"] == pytest.approx(hits / masked_count)
    assert metrics["eval/discriminator_loss"] == pytest.approx(detection / tokens, rel=1e-5)
    replaced = [logit for logit, label in scored if label]
    original = [logit for logit, label in scored if not label]
    pairs = [(one > other) + 0.5 * (one == other) for one in replaced for other in original]
    assert metrics["eval/auc"] == pytest.approx(sum(pairs) / len(pairs), abs=0.01)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "electra"])
def test_runs_with_different_samplers_are_compared_on_the_same_task(name: str) -> None:
    assert evaluated(name) == evaluated("electra")


def test_more_samples_than_there_are_rows_are_the_rows() -> None:
    loader = make_loader(5)
    assert evaluated(samples=10**6, loader=loader) == evaluated(samples=loader.samples, loader=loader)
    assert evaluated(samples=2, loader=loader) != evaluated(samples=loader.samples, loader=loader)


def test_a_warm_up_evaluates_the_generator_alone() -> None:
    (metrics,) = evaluated(phase="generator_warmup")
    assert set(metrics) == {"eval/generator_cross_entropy", "eval/generator_accuracy"}
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_mode_and_weights_as_they_were(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = make_module(SAMPLERS["hp_loss rms own"]).train(training)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes: list[bool] = []
    module.electra.embeddings.register_forward_pre_hook(lambda part, _inputs: modes.append(part.training))
    state = torch.get_rng_state()
    alone = Ranks(1).world(0)
    monkeypatch.setattr(alone, "sum", lambda value: value)
    evaluate(module, make_loader(20), 5, 0.15, 2, alone)
    assert modes
    assert not any(modes)
    assert module.training == training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(torch.get_rng_state(), state)
