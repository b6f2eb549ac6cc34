"""Uniform replacement without a generator: every ordinary token is as likely, and nothing of a generator is there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from electra_scale.corruption.corruption import Clock
from electra_scale.corruption.random import RandomSettings, RandomTokens
from electra_scale.data.batch import Batch
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.optim.parts import parts_of
from electra_scale.recipe.optimizer import AdamWSettings
from electra_scale.recipe.task import ReplacedTokensSettings
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.replaced_tokens import ReplacedTokens
from tests.unit.train.conftest import MODEL, SPECIAL, V, contribution, counts_of, gradients, make_batch

CLOCK = Clock(0, 0, "joint", 0)
ORDINARY = sorted(set(range(V)) - set(SPECIAL.ids().tolist()))


@pytest.fixture
def module() -> PretrainModule:
    electra = Electra(MODEL, seed=1, with_generator=False)
    corruptor = RandomTokens(RandomSettings(), MODEL, SPECIAL, seed=0)
    return PretrainModule(electra, corruptor, ReplacedTokens(ReplacedTokensSettings(), MODEL, SPECIAL), "joint")


def drawn(module: PretrainModule, batch: Batch) -> torch.Tensor:
    corruption = module.corruptor.corrupt(module.electra, batch, Layout.of(batch.segment), CLOCK)
    return corruption.ids.flatten()[batch.masked]


def test_each_ordinary_token_is_drawn_equally_often_and_no_special_one(module: PretrainModule) -> None:
    count = 100 * len(ORDINARY)
    ids = torch.full((1, count), ORDINARY[0])
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    batch = Batch(ids, torch.zeros_like(ids), torch.arange(count), torch.ones(count, dtype=torch.bool), uniform)
    counts = drawn(module, batch).bincount(minlength=V)
    assert counts[ORDINARY].tolist() == [100] * len(ORDINARY)
    assert int(counts.sum()) == count


def test_what_it_draws_from_is_uniform_over_the_ordinary_tokens_and_has_no_p(module: PretrainModule) -> None:
    batch = make_batch()
    corruption = module.corruptor.corrupt(module.electra, batch, Layout.of(batch.segment), CLOCK)
    found = module.corruptor.distributions(corruption, CLOCK)
    assert found is not None
    blocks = list(found)
    assert all(block.p is None for block in blocks)
    q = torch.cat([block.q for block in blocks])
    assert q.shape == (len(batch.masked), V)
    assert q[0, ORDINARY].tolist() == pytest.approx([1 / len(ORDINARY)] * len(ORDINARY))
    assert float(q[0].sum()) == pytest.approx(1)


def test_the_largest_uniform_number_stays_inside_the_vocabulary(module: PretrainModule) -> None:
    batch = make_batch()
    last = replace(batch, uniform=torch.full_like(batch.uniform, 1 - 2.0**-53))
    assert set(drawn(module, last).tolist()) == {ORDINARY[-1]}


def test_only_masked_positions_change_and_a_token_drawn_for_itself_counts_as_original(module: PretrainModule) -> None:
    batch = make_batch()
    corruption = module.corruptor.corrupt(module.electra, batch, Layout.of(batch.segment), CLOCK)
    assert torch.equal(corruption.labels, corruption.ids != batch.ids)
    outside = torch.ones(batch.ids.numel(), dtype=torch.bool)
    outside[batch.masked] = False
    assert torch.equal(corruption.ids.flatten()[outside], batch.ids.flatten()[outside])
    assert torch.equal(corruption.token_weight, (batch.segment >= 0).float())


def test_the_loss_is_the_discriminators_alone_and_teaches_all_that_is_there(module: PretrainModule) -> None:
    batch = make_batch()
    counts = counts_of(batch)
    loss, found = contribution(module, batch, counts)
    assert [name for name in found if name.startswith("loss/")] == ["loss/discriminator"]
    assert float(loss.detach()) == pytest.approx(50 * float(found["loss/discriminator"]) / float(counts["tokens"]))
    assert not any("generator" in name or "sampler" in name for name, _ in module.named_parameters())
    assert all(gradient.any() for gradient in gradients(module, [batch], counts).values())


def test_the_optimizer_gets_embeddings_and_discriminator(module: PretrainModule) -> None:
    names = [part.name for part in parts_of(module, AdamWSettings())]
    assert names == ["embeddings", "discriminator", "discriminator_head"]
