"""Evaluation on held-out text: the same on any number of ranks, whatever sampler trains, and without side effects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.loader import Loader
from electra_scale.train.heldout.evaluation import evaluate
from tests.unit.train.conftest import SAMPLERS, discriminate, generator_of, make_loader, make_module, masked_positions


class Waiting(Exception):
    """A rank has given its part, and the others have not."""


class Ranks:
    """Worlds of several ranks in one process: each rank's part is kept, then all get all."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts: list[Any] = []
        self.complete = False

    def world(self, rank: int) -> Any:
        ranks = self

        class World:
            size = ranks.size
            device = torch.device("cpu")

            def __init__(self) -> None:
                self.rank = rank

            def gather(self, value: Any) -> list[Any]:
                if not ranks.complete:
                    ranks.parts.append(value)
                    raise Waiting
                return ranks.parts

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
    together.complete = True
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
            masked = masked_positions(module, batch)
            log_p = torch.log_softmax(masked.features @ masked.word_embeddings.T + masked.bias, -1)
            drawn = propose(generator_of(module).sampler, masked).tokens
            ids = batch.ids.flatten().index_copy(0, batch.masked, drawn).view_as(batch.ids)
            logits, losses = discriminate(module, ids, batch)
        entropy -= float(log_p[torch.arange(len(log_p)), masked.original].sum())
        hits += int((log_p.argmax(-1) == masked.original).sum())
        masked_count += len(masked.original)
        real = batch.segment >= 0
        detection += float(losses[real].sum())
        tokens += int(real.sum())
        ordinary = module.task.ordinary(batch)
        scored += zip(logits[ordinary].tolist(), (ids != batch.ids)[ordinary].tolist(), strict=True)
    (metrics,) = evaluated(loader=loader)
    assert metrics["eval/generator_cross_entropy"] == pytest.approx(entropy / masked_count, rel=1e-5)
    assert metrics["eval/generator_accuracy"] == pytest.approx(hits / masked_count)
    assert metrics["eval/discriminator_loss"] == pytest.approx(detection / tokens, rel=1e-5)
    replaced = [logit for logit, label in scored if label]
    original = [logit for logit, label in scored if not label]
    pairs = [(one > other) + 0.5 * (one == other) for one in replaced for other in original]
    assert metrics["eval/auc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)


SOURCES = ("web pages", "books/en", "main", "web pages")


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 3), (2, 4), (5, 3), (16, 2)])
def test_each_source_has_the_metrics_of_its_own_rows_under_its_own_name(ranks: int, micro_batch: int) -> None:
    loader, samples = make_loader(12, sources=SOURCES, spread=True), 20
    positions = np.arange(samples)
    whole, *others = evaluated(ranks=ranks, micro_batch=micro_batch, samples=samples, loader=loader)
    for other in others:
        assert other == whole
    found = loader.sources(positions)
    assert set(found) == set(SOURCES)
    names = ("generator_cross_entropy", "generator_accuracy", "discriminator_loss", "auc")
    assert set(whole) == {f"eval/{name}" for name in names} | {
        f"eval/{source}/{name}" for source in SOURCES for name in names
    }
    for source in SOURCES:
        # A loader whose rows are those of the source alone.
        own = make_loader(12, sources=SOURCES, spread=True)
        chosen = positions[[label == source for label in found]]
        rows = own.rows
        own.rows = lambda places, share, rows=rows, chosen=chosen: rows(chosen[places], share)  # type: ignore[method-assign]
        own.sources = lambda places: ["one"] * len(places)  # type: ignore[method-assign]
        (alone,) = evaluated(samples=len(chosen), loader=own)
        for name in names:
            assert whole[f"eval/{source}/{name}"] == pytest.approx(alone[f"eval/{name}"], rel=1e-5), (source, name)


def test_every_rank_polls_as_often_whatever_the_sources_of_its_rows() -> None:
    module, loader = make_module(SAMPLERS["electra"]), make_loader(12, sources=SOURCES, spread=True)
    together = Ranks(5)
    counts = []
    for rank in range(5):
        polls: list[int] = []
        with pytest.raises(Waiting):
            evaluate(module, loader, 20, 0.15, 3, together.world(rank), lambda polls=polls: polls.append(1))
        counts.append(len(polls))
    assert len(set(counts)) == 1
    assert counts[0] > 0


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
    monkeypatch.setattr(alone, "gather", lambda value: [value])
    evaluate(module, make_loader(20), 5, 0.15, 2, alone)
    assert modes
    assert not any(modes)
    assert module.training == training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(torch.get_rng_state(), state)
