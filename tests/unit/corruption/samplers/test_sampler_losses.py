"""What the sampling head is fitted to, and where its gradient goes (method.md, section 9, check 4; section 8)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from electra_scale.corruption.sampler import Draw
from electra_scale.corruption.samplers.build import build_sampler
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.samplers.hp_dist import HardnessDistributionSampler
from electra_scale.corruption.samplers.hp_loss import HardnessLossSampler
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from tests.support.instruments.head_scores import own as own_score
from tests.support.instruments.head_scores import scores
from tests.unit.corruption.conftest import (
    MODEL,
    ORIGINAL,
    Case,
    GivenHead,
    V,
    given_draw,
    objective,
    random,
    roughened,
    varied,
)


@pytest.mark.parametrize("mixture", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("own_token", [False, True])
def test_expected_gradient_of_hp_dist_is_the_gap_to_the_optimum(own_token: bool, mixture: float) -> None:
    case = Case("hp_dist", mixture=mixture, own_token=own_token, exact=False)
    table = torch.tensor(np.log(case.believed), dtype=torch.float32, requires_grad=True)
    own = table[ORIGINAL] * 1 if own_token else None
    sampler = HardnessDistributionSampler(GivenHead(table, own), case.objective)
    masked, every = case.draw_each_token()
    losses = sampler.loss(masked, every, torch.tensor(case.losses))
    (gradient,) = torch.autograd.grad(losses @ torch.tensor(case.q), table)
    optimum = case.p * case.losses / (case.p @ case.losses)
    expected = (case.p @ case.losses) * (case.q_unmixed - optimum)
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-6 * np.abs(expected).max() * V)


def test_hp_dist_has_no_expected_gradient_at_the_optimum() -> None:
    case = Case("hp_dist", mixture=0.1, own_token=False)
    table = torch.tensor(np.log(case.losses), dtype=torch.float32, requires_grad=True)
    sampler = HardnessDistributionSampler(GivenHead(table), case.objective)
    masked, every = case.draw_each_token()
    losses = sampler.loss(masked, every, torch.tensor(case.losses))
    (gradient,) = torch.autograd.grad(losses @ torch.tensor(case.q), table)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize(("form", "moment"), [("mean", 1), ("rms", 2)])
def test_hp_loss_is_fitted_to_the_mean_or_to_the_root_mean_square(form: str, moment: int) -> None:
    """Of two losses at a token: the minimum is where L is their mean, or L^2 the mean of their squares."""
    losses = torch.tensor([0.4, 2.0])
    for own_token in (False, True):
        best = float((losses**moment).mean())
        score = torch.tensor(np.log(np.expm1(best)), dtype=torch.float32, requires_grad=True)
        other = torch.zeros(V).index_fill(0, torch.tensor([ORIGINAL]), 5.0)
        table = other if own_token else other.index_put((torch.tensor([ORIGINAL]),), score)
        head = GivenHead(table, score if own_token else None)
        sampler = HardnessLossSampler(head, objective("hp_loss", own_token, form, floor=1e-9))
        masked = varied(2)
        masked.original[:] = ORIGINAL
        drawn = given_draw(torch.tensor([ORIGINAL, ORIGINAL]))
        value = sampler.loss(masked, drawn, losses)
        expected = (best - losses**moment) ** 2
        assert torch.allclose(value, expected, rtol=1e-5)
        (gradient,) = torch.autograd.grad(value.sum(), score)
        assert gradient.abs() < 1e-5


@pytest.mark.parametrize("own_token", [False, True])
@pytest.mark.parametrize("form", ["mean", "rms"])
def test_hp_loss_is_fitted_to_the_hardness_it_samples_by(form: str, own_token: bool) -> None:
    """The loss looks at drawn tokens only, sampling at all of them; with the real head both see the same score."""
    sampler = roughened(build_sampler(objective("hp_loss", own_token, form, mixture=0.0, floor=1e-6), MODEL, seed=0))
    assert isinstance(sampler, HardnessLossSampler)
    masked = varied(600)
    masked.original[:300] = masked.features[:300, 1:].argmax(-1)
    drawn = propose(sampler, masked)
    believed = sampler.loss(masked, drawn, torch.zeros(600)).detach()
    # At l = 0 the loss is L^2, or L^4 for rms; drawn.hardness is L up to a factor per position.
    estimate = believed ** (0.25 if form == "rms" else 0.5)
    with torch.no_grad():
        score = scores(sampler.head, masked.hidden, masked.word_embeddings)
        if own_token:
            score[torch.arange(600), masked.original] = own_score(sampler.head, masked.hidden)
        hardness = torch.nn.functional.softplus(score)
        hardness = (hardness.sqrt() if form == "rms" else hardness) + 1e-6
        p = torch.softmax(masked.features @ masked.word_embeddings.T + masked.bias, -1)
        level = (p * hardness).sum(-1)
    assert torch.allclose(estimate / level, drawn.hardness, rtol=1e-3)
    assert (drawn.tokens == masked.original).sum() > 5


@pytest.mark.parametrize("name", ["hp_loss", "hp_dist"])
def test_training_the_head_finds_what_is_hard(name: str) -> None:
    """Tokens below ``V / 2`` lose 2, others 0.2, the original 0.1: the sampler learns to prefer the first."""
    sampler = build_sampler(objective(name, mixture=0.1), MODEL, seed=0)
    optimizer = torch.optim.Adam(sampler.parameters(), lr=0.03)
    for step in range(100):
        masked = varied(64, seed=step)
        masked.word_embeddings[: V // 2, 0] += 3
        masked.word_embeddings[V // 2 :, 0] -= 3
        drawn = propose(sampler, masked)
        loss = torch.where(drawn.tokens < V // 2, 2.0, 0.2)
        loss = torch.where(drawn.tokens == masked.original, 0.1, loss)
        optimizer.zero_grad()
        sampler.loss(masked, drawn, loss).mean().backward()
        optimizer.step()
    masked = varied(4000, seed=1000)
    masked.word_embeddings[: V // 2, 0] += 3
    masked.word_embeddings[V // 2 :, 0] -= 3
    drawn, plain = propose(sampler, masked), propose(ElectraSampler(), masked)

    def share(draws: Draw, condition: Tensor) -> float:
        return float(condition.double().mean())

    assert share(drawn, drawn.tokens < V // 2) > share(plain, plain.tokens < V // 2) + 0.1
    assert share(drawn, drawn.tokens == masked.original) < 0.7 * share(plain, plain.tokens == masked.original)


@pytest.mark.parametrize("name", ["electra", "temperature", "hp_loss", "hp_dist"])
def test_a_proposal_carries_no_gradient(name: str) -> None:
    masked = varied(20)
    masked.features.requires_grad_()
    masked.hidden.requires_grad_()
    drawn = propose(roughened(build_sampler(objective(name), MODEL, seed=0)), masked)
    assert not drawn.weight.requires_grad
    assert not drawn.hardness.requires_grad


@pytest.mark.parametrize("reaches_encoder", [True, False])
@pytest.mark.parametrize("name", ["hp_loss", "hp_dist"])
def test_the_heads_loss_reaches_the_hidden_states_only_where_asked(name: str, reaches_encoder: bool) -> None:
    sampler = roughened(build_sampler(objective(name, reaches_encoder=reaches_encoder), MODEL, seed=0))
    masked = varied(20)
    masked.features.requires_grad_()
    masked.hidden.requires_grad_()
    masked.word_embeddings.requires_grad_()
    discriminator_loss = torch.rand(20, generator=random(0)).requires_grad_()
    drawn = propose(sampler, masked)
    masked.original[:10] = drawn.tokens[:10]
    sampler.loss(masked, drawn, discriminator_loss).sum().backward()
    assert (masked.hidden.grad is not None and bool(masked.hidden.grad.any())) == reaches_encoder
    for constant in (masked.features, masked.word_embeddings, discriminator_loss):
        assert constant.grad is None or not constant.grad.any()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in sampler.parameters())


@pytest.mark.parametrize("name", ["electra", "temperature"])
def test_a_sampler_without_parameters_says_that_it_does_not_learn(name: str) -> None:
    sampler = build_sampler(objective(name), MODEL, seed=0)
    assert not sampler.learns
    assert not list(sampler.parameters())
    masked = varied(3)
    with pytest.raises(NotImplementedError, match="does not learn"):
        sampler.loss(masked, propose(sampler, masked), torch.ones(3))


@pytest.mark.parametrize("form", ["mean", "rms"])
def test_the_gradient_target_is_fitted_to_the_size_of_the_discriminators_gradient(form: str) -> None:
    """|dl/ds| of a binary cross-entropy is 1 - exp(-l)."""
    logits = torch.linspace(-3, 3, 9, dtype=torch.float64, requires_grad=True)
    losses = torch.nn.functional.softplus(logits)
    (slope,) = torch.autograd.grad(losses.sum(), logits)
    settings = objective("hp_loss", own_token=False, form=form, target="gradient", floor=1e-9)
    wanted = slope.abs() ** 2 if form == "rms" else slope.abs()
    table = torch.zeros(V, dtype=torch.float64)
    table[:9] = wanted.expm1().log()
    sampler = HardnessLossSampler(GivenHead(table), settings)
    found = sampler.loss(varied(9), given_draw(torch.arange(9)), losses.detach())
    assert torch.allclose(found, torch.zeros(9, dtype=found.dtype), atol=1e-9)


def test_two_scalars_learn_the_hardness_of_kept_and_of_replaced_tokens() -> None:
    sampler = build_sampler(objective("two_scalars"), MODEL, seed=0)
    optimizer = torch.optim.Adam(sampler.parameters(), lr=0.1)
    masked = varied(50)
    drawn = given_draw(masked.original.clone())
    drawn.tokens[25:] = (drawn.tokens[25:] + 1) % V
    losses = torch.where(drawn.tokens == masked.original, 0.5, 2.0)
    for _ in range(300):
        optimizer.zero_grad()
        sampler.loss(masked, drawn, losses).mean().backward()
        optimizer.step()
    assert sampler.loss(masked, drawn, losses).max() < 1e-3
    _, moved = masked, propose(sampler, masked)
    ratio = moved.hardness[moved.tokens != masked.original]
    assert (ratio >= 1).all()


@pytest.mark.parametrize(("normaliser", "first", "second"), [("none", 1, 1), ("batch", 2, 4), ("moving", 2, 2.02)])
def test_the_normaliser_of_hp_dist_divides_by_the_mean_weighted_loss_of_steps_before(
    normaliser: str, first: float, second: float
) -> None:
    masked = varied(20)
    sampler = roughened(build_sampler(objective("hp_dist", normaliser=normaliser), MODEL, seed=0))
    drawn, losses = propose(sampler, masked), torch.rand(20, generator=random(1))
    plain = sampler.loss(masked, drawn, losses).detach()
    sampler.observe(2.0)
    once = sampler.loss(masked, drawn, losses).detach()
    sampler.observe(4.0)
    twice = sampler.loss(masked, drawn, losses).detach()
    assert torch.allclose(once * first, plain)
    assert torch.allclose(twice * second, plain)
