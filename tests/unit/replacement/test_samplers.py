"""The samplers against sums over the whole vocabulary (method.md, section 9, checks 1, 3 and 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from electra_scale.model import SamplingHead
from electra_scale.replacement import Draw, Masked, ObjectiveConfig, Sampler, SamplingHeadConfig, build_sampler
from electra_scale.replacement.fixed import ElectraSampler
from electra_scale.replacement.hp_dist import HardnessDistributionSampler
from electra_scale.replacement.hp_loss import HardnessLossSampler

from .conftest import HIDDEN, MODEL, ORIGINAL, Case, GivenHead, V, masked_rows, random, with_head

# Everything that is drawn with weights, and how its expectations are known.
WEIGHTED: list[dict[str, Any]] = [
    {"name": "temperature", "temperature": 1.5},
    {"name": "temperature", "temperature": 0.8},
    *(
        {"name": "hp_loss", "form": form, "own_token": own, "mixture": mixture}
        for form in ("rms", "mean")
        for own in (False, True)
        for mixture in (0.0, 0.1, 0.6)
    ),
    *({"name": "hp_dist", "own_token": own, "mixture": mixture} for own in (False, True) for mixture in (0.0, 0.1, 0.6)),
]
LEARNING = [settings for settings in WEIGHTED if settings["name"] != "temperature"]
PERFECT = [settings for settings in LEARNING if settings["mixture"] == 0]


def label(settings: dict[str, Any]) -> str:
    return " ".join(str(value) for value in settings.values())


weighted = pytest.mark.parametrize("settings", WEIGHTED, ids=label)
learning = pytest.mark.parametrize("settings", LEARNING, ids=label)
perfect = pytest.mark.parametrize("settings", PERFECT, ids=label)


def varied(rows: int, seed: int = 0) -> Masked:
    """Rows of different scores, hidden states, originals and uniform numbers."""
    masked = masked_rows(
        3 * torch.randn(rows, V, generator=random(seed)),
        torch.rand(rows, generator=random(seed + 1), dtype=torch.float64),
    )
    masked.original = torch.randint(V, (rows,), generator=random(seed + 2))
    return masked


def objective(name: str, own_token: bool = True, form: str = "rms", mixture: float = 0.1, **head: Any) -> ObjectiveConfig:
    return ObjectiveConfig(
        sampler=name,  # type: ignore[arg-type]
        mixture=mixture,
        head=SamplingHeadConfig(own_token=own_token, form=form, width=4, **head),  # type: ignore[arg-type]
    )


def roughened(sampler: Sampler, size: float = 0.5) -> Sampler:
    generator = random(9)
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return sampler


# -- check 1 ----------------------------------------------------------------------------------------------------------


def assert_is_plain_electra(sampler: Sampler, masked: Masked) -> None:
    drawn, plain = sampler.propose(masked), ElectraSampler().propose(masked)
    assert torch.equal(drawn.tokens, plain.tokens)
    assert torch.equal(drawn.weight, torch.ones_like(drawn.weight))
    assert torch.equal(drawn.weight, plain.weight)


@pytest.mark.parametrize("mixture", [0.0, 0.1, 0.37])
@pytest.mark.parametrize("form", ["rms", "mean"])
@pytest.mark.parametrize("own_token", [False, True])
@pytest.mark.parametrize("name", ["hp_loss", "hp_dist"])
def test_a_new_head_is_plain_electra(name: str, own_token: bool, form: str, mixture: float) -> None:
    sampler = build_sampler(objective(name, own_token, form, mixture), MODEL, seed=0)
    assert_is_plain_electra(sampler, varied(4000))


@pytest.mark.parametrize("level", [-6.0, -0.3, 0.0, 4.0])
@pytest.mark.parametrize("form", ["rms", "mean"])
@pytest.mark.parametrize("own_token", [False, True])
@pytest.mark.parametrize("name", ["hp_loss", "hp_dist"])
def test_constant_hardness_is_plain_electra(name: str, own_token: bool, form: str, level: float) -> None:
    head = GivenHead(torch.full((V,), level), torch.tensor(level) if own_token else None)
    kind = HardnessLossSampler if name == "hp_loss" else HardnessDistributionSampler
    sampler = kind(head, objective(name, own_token, form))  # type: ignore[arg-type]
    masked = varied(4000)
    drawn, plain = sampler.propose(masked), ElectraSampler().propose(masked)
    assert torch.equal(drawn.tokens, plain.tokens)
    assert torch.allclose(drawn.weight, torch.ones(4000), rtol=0, atol=1e-6)


def test_temperature_one_is_plain_electra() -> None:
    sampler = build_sampler(ObjectiveConfig(sampler="temperature", temperature=1.0), MODEL, seed=0)
    assert_is_plain_electra(sampler, varied(4000))


# -- check 3 ----------------------------------------------------------------------------------------------------------


def test_electra_draws_from_the_generators_distribution() -> None:
    drawn = Case("electra").draw_each_token()
    assert torch.equal(drawn.weight, torch.ones(V))


@weighted
@pytest.mark.parametrize("exact", [True, False])
def test_the_weight_of_every_token_is_p_over_q(settings: dict[str, Any], exact: bool) -> None:
    case = Case(**settings, exact=exact)
    np.testing.assert_allclose(case.draw_each_token().weight.numpy(), case.p / case.q, rtol=1e-5)


@weighted
@pytest.mark.parametrize("exact", [True, False])
def test_weights_average_to_one_and_keep_the_expected_loss(settings: dict[str, Any], exact: bool) -> None:
    case = Case(**settings, exact=exact)
    weight = case.draw_each_token().weight.double().numpy()
    assert case.q @ weight == pytest.approx(1, rel=1e-6)
    assert case.q @ (weight * case.losses) == pytest.approx(case.p @ case.losses, rel=1e-6)


@perfect
def test_true_hardness_leaves_no_variance(settings: dict[str, Any]) -> None:
    case = Case(**settings)
    weighted_loss = case.draw_each_token().weight.double().numpy() * case.losses
    mean = case.p @ case.losses
    plain = case.p @ (case.losses - mean) ** 2
    assert plain > 0.1
    assert case.q @ (weighted_loss - mean) ** 2 < 1e-9 * plain


@learning
def test_true_hardness_has_less_variance_than_electra(settings: dict[str, Any]) -> None:
    case = Case(**settings)
    weighted_loss = case.draw_each_token().weight.double().numpy() * case.losses
    mean = case.p @ case.losses
    assert case.q @ (weighted_loss - mean) ** 2 < 0.5 * (case.p @ (case.losses - mean) ** 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "electra"},
        {"name": "temperature", "temperature": 2.0},
        {"name": "hp_loss", "mixture": 0.0},
        {"name": "hp_loss", "mixture": 0.3, "form": "mean"},
        {"name": "hp_dist", "mixture": 0.0},
        {"name": "hp_dist", "mixture": 0.3},
    ],
    ids=label,
)
def test_draws_pass_a_chi_square_test_against_q(settings: dict[str, Any]) -> None:
    case = Case(**settings, spread=2.0, exact=False, seed=5)
    uniform = torch.rand(200_000, generator=random(11), dtype=torch.float64)
    drawn = torch.cat([case.sampler.propose(case.masked(part)).tokens for part in uniform.split(20_000)])
    counts = torch.bincount(drawn, minlength=V).numpy()
    often = case.p > 1e-4
    assert often.sum() > 30
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(case.q[often], case.q[~often].sum()) * len(uniform)
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1] * (observed[:-1].sum() / expected[:-1].sum())
    assert stats.chisquare(observed, expected).pvalue > 1e-4


# -- what keeps weights in bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hp_loss", "hp_dist"])
@pytest.mark.parametrize("mixture", [0.05, 0.1, 0.5])
def test_no_weight_exceeds_one_over_the_mixture(name: str, mixture: float) -> None:
    """Even for a head that is sure that half of the tokens are easy."""
    scores = torch.linspace(-2, 2, V)
    head = GivenHead(torch.where(torch.arange(V) % 2 == 0, 200.0, -200.0))
    kind = HardnessLossSampler if name == "hp_loss" else HardnessDistributionSampler
    sampler = kind(head, objective(name, own_token=False, mixture=mixture))  # type: ignore[arg-type]
    uniform = torch.rand(5000, generator=random(0), dtype=torch.float64)
    weight = sampler.propose(masked_rows(scores.expand(5000, V), uniform)).weight
    assert weight.max() <= (1 + 1e-6) / mixture
    assert weight.max() > 0.8 / mixture


def test_the_floor_bounds_the_weight() -> None:
    """w = Z / L <= Z / floor (method.md, section 4)."""
    floor = 0.2
    scores = torch.linspace(-2, 2, V)
    hardness = torch.where(torch.arange(V) % 2 == 0, 4.0, -30.0)
    sampler = HardnessLossSampler(GivenHead(hardness), objective("hp_loss", False, "mean", 0.0, floor=floor))  # type: ignore[arg-type]
    uniform = torch.rand(5000, generator=random(0), dtype=torch.float64)
    weight = sampler.propose(masked_rows(scores.expand(5000, V), uniform)).weight
    believed = np.where(np.arange(V) % 2 == 0, np.log1p(np.exp(4)), 0) + floor
    p = torch.softmax(scores.double(), -1).numpy()
    assert float(weight.max()) == pytest.approx((p @ believed) / floor, rel=1e-5)


@pytest.mark.parametrize("name", ["electra", "temperature", "hp_loss", "hp_dist"])
def test_extreme_scores_give_possible_tokens_and_finite_weights(name: str) -> None:
    scores = torch.randn(64, V, generator=random(0))
    scores[:16] *= 1e4
    scores[16:32, ::2] = -1e4
    scores[32:48, ::2] = -torch.inf
    scores[48:, 3] = 1e4
    uniform = torch.cat([torch.zeros(32), torch.full((32,), 1 - 2.0**-53, dtype=torch.float64)])
    sampler = roughened(build_sampler(objective(name), MODEL, seed=0))
    drawn = sampler.propose(masked_rows(scores, uniform[torch.randperm(64, generator=random(1))]))
    assert drawn.weight.isfinite().all()
    assert (drawn.weight > 0).all()
    chosen = scores.gather(1, drawn.tokens[:, None])[:, 0]
    assert (scores.amax(-1) - chosen < 200).all()


def test_a_head_that_has_run_away_still_gives_a_token() -> None:
    """Its loss is large then, but nothing is out of range or not a number."""
    scores = torch.linspace(-10, 10, V).expand(8, V)
    table = torch.full((V,), -1000.0)
    table[2] = 1000.0
    uniform = torch.linspace(0, 1 - 2.0**-53, 8, dtype=torch.float64)
    for sampler in (
        HardnessDistributionSampler(GivenHead(table), objective("hp_dist")),  # type: ignore[arg-type]
        HardnessLossSampler(GivenHead(table), objective("hp_loss")),  # type: ignore[arg-type]
    ):
        drawn = sampler.propose(masked_rows(scores, uniform))
        assert drawn.weight.isfinite().all()
        assert (drawn.weight <= 10 * (1 + 1e-6)).all()
        assert (drawn.tokens == 2).sum() >= 6


# -- own token ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hp_loss", "hp_dist"])
def test_the_own_token_score_is_used_at_the_original_and_nowhere_else(name: str) -> None:
    """An own score far below the others makes the original rare, and leaves the other tokens' proportions."""
    own = Case(name, own_token=True)
    own.believed = own.believed.copy()
    own.believed[ORIGINAL] = 1e-4
    sampler = own._sampler(name)
    uniform = torch.rand(20_000, generator=random(0), dtype=torch.float64)
    plain = own.sampler.propose(own.masked(uniform)).tokens
    rare = sampler.propose(own.masked(uniform)).tokens
    assert (plain == ORIGINAL).sum() > 100
    assert (rare == ORIGINAL).sum() < 10
    counts = torch.bincount(rare, minlength=V).double().numpy()
    q = own.p * own.believed / (own.p * own.believed).sum()
    counts, q = np.delete(counts, ORIGINAL), np.delete(q, ORIGINAL)
    assert stats.chisquare(counts, q / q.sum() * counts.sum()).pvalue > 1e-4


# -- check 4, and what hp_loss is fitted to -----------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("own_token", [False, True])
def test_expected_gradient_of_hp_dist_is_the_gap_to_the_optimum(own_token: bool, mixture: float) -> None:
    case = Case("hp_dist", mixture=mixture, own_token=own_token, exact=False)
    table = torch.tensor(np.log(case.believed), dtype=torch.float32, requires_grad=True)
    own = table[ORIGINAL] * 1 if own_token else None
    sampler = HardnessDistributionSampler(GivenHead(table, own), case.objective)  # type: ignore[arg-type]
    masked = case.masked(torch.zeros(V, dtype=torch.float64))
    every = Draw(torch.arange(V), torch.tensor(case.p / case.q), torch.ones(V))
    losses = sampler.loss(masked, every, torch.tensor(case.losses))
    (gradient,) = torch.autograd.grad(losses @ torch.tensor(case.q), table)
    optimum = case.p * case.losses / (case.p @ case.losses)
    expected = (case.p @ case.losses) * (case.q_unmixed - optimum)
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-6 * np.abs(expected).max() * V)


def test_hp_dist_has_no_expected_gradient_at_the_optimum() -> None:
    case = Case("hp_dist", mixture=0.1, own_token=False)
    table = torch.tensor(np.log(case.losses), dtype=torch.float32, requires_grad=True)
    sampler = HardnessDistributionSampler(GivenHead(table), case.objective)  # type: ignore[arg-type]
    every = Draw(torch.arange(V), torch.tensor(case.p / case.q), torch.ones(V))
    losses = sampler.loss(case.masked(torch.zeros(V, dtype=torch.float64)), every, torch.tensor(case.losses))
    (gradient,) = torch.autograd.grad(losses @ torch.tensor(case.q), table)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize(("form", "moment"), [("mean", 1), ("rms", 2)])
def test_hp_loss_is_fitted_to_the_mean_or_to_the_root_mean_square(form: str, moment: int) -> None:
    """Two losses at the same token: the loss has its minimum where L is their mean, or L^2 the mean of their squares."""
    losses = torch.tensor([0.4, 2.0])
    for own_token in (False, True):
        best = float((losses**moment).mean())
        score = torch.tensor(np.log(np.expm1(best)), dtype=torch.float32, requires_grad=True)
        other = torch.zeros(V).index_fill(0, torch.tensor([ORIGINAL]), 5.0)
        table = other if own_token else other.index_put((torch.tensor([ORIGINAL]),), score)
        head = GivenHead(table, score if own_token else None)
        sampler = HardnessLossSampler(head, objective("hp_loss", own_token, form, floor=1e-9))  # type: ignore[arg-type]
        masked = varied(2)
        masked.original[:] = ORIGINAL
        drawn = Draw(torch.tensor([ORIGINAL, ORIGINAL]), torch.ones(2), torch.ones(2))
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
    drawn = sampler.propose(masked)
    believed = sampler.loss(masked, drawn, torch.zeros(600)).detach()
    # At l = 0 the loss is L^2, or L^4 for rms; drawn.hardness is L up to a factor per position.
    estimate = believed ** (0.25 if form == "rms" else 0.5)
    with torch.no_grad():
        score = sampler.head.scores(masked.hidden, masked.word_embeddings)
        if own_token:
            score[torch.arange(600), masked.original] = sampler.head.own(masked.hidden)
        hardness = sampler.hardness(score)
        level = (torch.softmax(masked.scores, -1) * hardness).sum(-1)
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
        drawn = sampler.propose(masked)
        loss = torch.where(drawn.tokens < V // 2, 2.0, 0.2)
        loss = torch.where(drawn.tokens == masked.original, 0.1, loss)
        optimizer.zero_grad()
        sampler.loss(masked, drawn, loss).mean().backward()
        optimizer.step()
    masked = varied(4000, seed=1000)
    masked.word_embeddings[: V // 2, 0] += 3
    masked.word_embeddings[V // 2 :, 0] -= 3
    drawn, plain = sampler.propose(masked), ElectraSampler().propose(masked)

    def share(draws: Draw, condition: Tensor) -> float:
        return float(condition.double().mean())

    assert share(drawn, drawn.tokens < V // 2) > share(plain, plain.tokens < V // 2) + 0.1
    assert share(drawn, drawn.tokens == masked.original) < 0.7 * share(plain, plain.tokens == masked.original)


# -- gradients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["electra", "temperature", "hp_loss", "hp_dist"])
def test_a_proposal_carries_no_gradient(name: str) -> None:
    masked = varied(20)
    masked.scores.requires_grad_()
    masked.hidden.requires_grad_()
    drawn = roughened(build_sampler(objective(name), MODEL, seed=0)).propose(masked)
    assert not drawn.weight.requires_grad
    assert not drawn.hardness.requires_grad


@pytest.mark.parametrize("reaches_encoder", [True, False])
@pytest.mark.parametrize("name", ["hp_loss", "hp_dist"])
def test_the_heads_loss_reaches_the_hidden_states_only_where_asked(name: str, reaches_encoder: bool) -> None:
    sampler = roughened(build_sampler(with_head(objective(name), reaches_encoder=reaches_encoder), MODEL, seed=0))
    masked = varied(20)
    masked.scores.requires_grad_()
    masked.hidden.requires_grad_()
    masked.word_embeddings.requires_grad_()
    discriminator_loss = torch.rand(20, generator=random(0)).requires_grad_()
    drawn = sampler.propose(masked)
    masked.original[:10] = drawn.tokens[:10]
    sampler.loss(masked, drawn, discriminator_loss).sum().backward()
    assert (masked.hidden.grad is not None and bool(masked.hidden.grad.any())) == reaches_encoder
    for constant in (masked.scores, masked.word_embeddings, discriminator_loss):
        assert constant.grad is None or not constant.grad.any()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in sampler.parameters())


@pytest.mark.parametrize("name", ["electra", "temperature"])
def test_a_sampler_without_parameters_says_that_it_does_not_learn(name: str) -> None:
    sampler = build_sampler(objective(name), MODEL, seed=0)
    assert not sampler.learns
    assert not list(sampler.parameters())
    masked = varied(3)
    with pytest.raises(NotImplementedError, match="does not learn"):
        sampler.loss(masked, sampler.propose(masked), torch.ones(3))


# -- the recipe ----------------------------------------------------------------------------------------------------------


def test_the_recipe_decides_the_sampler() -> None:
    kinds = {name: type(build_sampler(objective(name), MODEL, seed=0)).__name__ for name in ("hp_loss", "hp_dist")}
    assert kinds == {"hp_loss": "HardnessLossSampler", "hp_dist": "HardnessDistributionSampler"}
    for own_token in (True, False):
        sampler: Any = build_sampler(objective("hp_loss", own_token), MODEL, seed=0)
        assert isinstance(sampler.head, SamplingHead)
        assert (sampler.head.own_token is not None) == own_token
        assert sampler.head.features(torch.zeros(1, HIDDEN)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "default"), [("electra", False), ("temperature", False), ("hp_loss", True), ("hp_dist", True)]
)
def test_weights_are_on_for_the_hardness_samplers_unless_the_recipe_says_otherwise(name: str, default: bool) -> None:
    settings = objective(name)
    assert settings.weighted == default
    settings.importance_weights = not default
    assert settings.weighted == (not default)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"temperature": 0.0}, "objective.temperature"),
        ({"mixture": 1.1}, "objective.mixture"),
        ({"mixture": -0.1}, "objective.mixture"),
        ({"focal_gamma": -1.0}, "objective.focal_gamma"),
        ({"discriminator_weight": -1.0}, "objective.discriminator_weight"),
        ({"sampler_weight": -1.0}, "objective.sampler_weight"),
        ({"head": SamplingHeadConfig(width=0)}, "objective.head.width"),
        ({"head": SamplingHeadConfig(floor=0.0)}, "objective.head.floor"),
        ({"head": SamplingHeadConfig(learning_rate_scale=0.0)}, "objective.head.learning_rate_scale"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(change: dict[str, Any], key: str) -> None:
    assert ObjectiveConfig().problems() == []
    (problem,) = ObjectiveConfig(**change).problems()
    assert key in problem
