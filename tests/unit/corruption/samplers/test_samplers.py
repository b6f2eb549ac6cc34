"""The samplers against sums over the whole vocabulary (method.md, section 9, checks 1 and 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from electra_scale.corruption.sampler import Masked, Sampler
from electra_scale.corruption.samplers.build import build_sampler
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.samplers.hp_dist import HardnessDistributionSampler
from electra_scale.corruption.samplers.hp_loss import HardnessLossSampler
from electra_scale.corruption.vocabulary.tiles import ON_CPU
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.recipe.corruption import GeneratorSettings
from tests.unit.corruption.conftest import (
    MODEL,
    ORIGINAL,
    Case,
    GivenHead,
    V,
    masked_rows,
    objective,
    random,
    roughened,
    varied,
)

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
    *(
        {"name": "hp_dist", "own_token": own, "mixture": mixture}
        for own in (False, True)
        for mixture in (0.0, 0.1, 0.6)
    ),
]
WEIGHTED += [{"name": "two_scalars", "form": form, "mixture": 0.1} for form in ("rms", "mean")]
LEARNING = [settings for settings in WEIGHTED if settings["name"] not in ("temperature", "two_scalars")]
PERFECT = [settings for settings in LEARNING if settings["mixture"] == 0]


def label(settings: dict[str, Any]) -> str:
    return " ".join(str(value) for value in settings.values())


weighted = pytest.mark.parametrize("settings", WEIGHTED, ids=label)
learning = pytest.mark.parametrize("settings", LEARNING, ids=label)
perfect = pytest.mark.parametrize("settings", PERFECT, ids=label)


def assert_is_plain_electra(sampler: Sampler, masked: Masked) -> None:
    drawn, plain = propose(sampler, masked), propose(ElectraSampler(), masked)
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
    sampler = kind(head, objective(name, own_token, form))
    masked = varied(4000)
    drawn, plain = propose(sampler, masked), propose(ElectraSampler(), masked)
    assert torch.equal(drawn.tokens, plain.tokens)
    assert torch.allclose(drawn.weight, torch.ones(4000), rtol=0, atol=2e-6)


def test_temperature_one_is_plain_electra() -> None:
    sampler = build_sampler(GeneratorSettings(sampler="temperature", temperature=1.0), MODEL, seed=0)
    assert_is_plain_electra(sampler, varied(4000))


def test_electra_draws_from_the_generators_distribution() -> None:
    _, drawn = Case("electra").draw_each_token()
    assert torch.equal(drawn.weight, torch.ones(V))


@weighted
@pytest.mark.parametrize("exact", [True, False])
def test_the_weight_of_every_token_is_p_over_q(settings: dict[str, Any], exact: bool) -> None:
    case = Case(**settings, exact=exact)
    np.testing.assert_allclose(case.draw_each_token()[1].weight.numpy(), case.p / case.q, rtol=1e-5)


@weighted
@pytest.mark.parametrize("exact", [True, False])
def test_weights_average_to_one_and_keep_the_expected_loss(settings: dict[str, Any], exact: bool) -> None:
    case = Case(**settings, exact=exact)
    weight = case.draw_each_token()[1].weight.double().numpy()
    assert case.q @ weight == pytest.approx(1, rel=1e-6)
    assert case.q @ (weight * case.losses) == pytest.approx(case.p @ case.losses, rel=1e-6)


EVERY: list[dict[str, Any]] = [
    {"name": "electra"},
    {"name": "temperature", "temperature": 1.5},
    *({"name": name, "mixture": mixture} for name in ("hp_loss", "hp_dist") for mixture in (0.0, 0.3)),
    {"name": "hp_loss", "mixture": 0.3, "own_token": False},
    {"name": "hp_dist", "mixture": 0.3, "own_token": False},
    {"name": "two_scalars", "mixture": 0.1},
]


@pytest.mark.parametrize("settings", EVERY, ids=label)
def test_without_originals_q_and_weights_are_those_of_the_other_tokens(settings: dict[str, Any]) -> None:
    """Draws' frequencies by inverting, w = p'/q', and E_q'[w l] = E_p[l | not the original], exactly."""
    case = Case(**settings, exact=False, allow_original=False)
    uniform = (torch.arange(50_000, dtype=torch.float64) + 0.5) / 50_000
    frequency = propose(case.sampler, case.masked(uniform)).tokens.bincount(minlength=V) / len(uniform)
    np.testing.assert_allclose(frequency.numpy(), case.q, atol=3e-5)
    assert frequency[ORIGINAL] == case.q[ORIGINAL] == 0
    others = np.delete(np.arange(V), ORIGINAL)
    weight = np.zeros(V)
    weight[others] = case.draw_each_token()[1].weight.numpy()
    np.testing.assert_allclose(weight[others], (case.drawable / np.where(case.q > 0, case.q, 1))[others], rtol=1e-5)
    assert case.q @ weight == pytest.approx(1, rel=1e-6)
    kept = case.p[ORIGINAL] * case.losses[ORIGINAL]
    expected = (case.p @ case.losses - kept) / (1 - case.p[ORIGINAL])
    assert case.q @ (weight * case.losses) == pytest.approx(expected, rel=1e-6)
    if case.sampler.mixture:
        assert weight.max() <= 1 / case.sampler.mixture


@pytest.mark.parametrize("gap", [30.0, 300.0, 1e4])
@pytest.mark.parametrize("settings", EVERY, ids=label)
def test_the_other_tokens_keep_their_proportions_however_likely_the_original_is(
    settings: dict[str, Any], gap: float
) -> None:
    case = Case(**settings, exact=False, allow_original=False)
    sure = torch.tensor(case.scores, dtype=torch.float32)
    sure[ORIGINAL] = sure.max() + gap
    middle = torch.from_numpy((np.cumsum(case.q) - case.q / 2)[case.q > 0])
    for columns in (7, V):
        drawn = propose(
            case.sampler, masked_rows(sure.expand(len(middle), V), middle), tiling=replace(ON_CPU, columns=columns)
        )
        assert drawn.tokens.tolist() == np.nonzero(case.q)[0].tolist()
        expected = (case.drawable / np.where(case.q > 0, case.q, 1))[case.q > 0]
        np.testing.assert_allclose(drawn.weight.numpy(), expected, rtol=1e-4)


@perfect
def test_true_hardness_leaves_no_variance(settings: dict[str, Any]) -> None:
    case = Case(**settings)
    weighted_loss = case.draw_each_token()[1].weight.double().numpy() * case.losses
    mean = case.p @ case.losses
    plain = case.p @ (case.losses - mean) ** 2
    assert plain > 0.1
    assert case.q @ (weighted_loss - mean) ** 2 < 1e-9 * plain


@learning
def test_true_hardness_has_less_variance_than_electra(settings: dict[str, Any]) -> None:
    case = Case(**settings)
    weighted_loss = case.draw_each_token()[1].weight.double().numpy() * case.losses
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
        {"name": "two_scalars", "mixture": 0.1},
    ],
    ids=label,
)
def test_draws_pass_a_chi_square_test_against_q(settings: dict[str, Any]) -> None:
    case = Case(**settings, spread=2.0, exact=False, seed=5)
    uniform = torch.rand(200_000, generator=random(11), dtype=torch.float64)
    drawn = torch.cat([propose(case.sampler, case.masked(part)).tokens for part in uniform.split(20_000)])
    counts = torch.bincount(drawn, minlength=V).numpy()
    often = case.p > 1e-4
    assert often.sum() > 30
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(case.q[often], case.q[~often].sum()) * len(uniform)
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1] * (observed[:-1].sum() / expected[:-1].sum())
    assert stats.chisquare(observed, expected).pvalue > 1e-4


@pytest.mark.parametrize("name", ["hp_loss", "hp_dist"])
@pytest.mark.parametrize("mixture", [0.05, 0.1, 0.5])
def test_no_weight_exceeds_one_over_the_mixture(name: str, mixture: float) -> None:
    """Even for a head that is sure that half of the tokens are easy."""
    scores = torch.linspace(-2, 2, V)
    head = GivenHead(torch.where(torch.arange(V) % 2 == 0, 200.0, -200.0))
    kind = HardnessLossSampler if name == "hp_loss" else HardnessDistributionSampler
    sampler = kind(head, objective(name, own_token=False, mixture=mixture))
    uniform = torch.rand(5000, generator=random(0), dtype=torch.float64)
    weight = propose(sampler, masked_rows(scores.expand(5000, V), uniform)).weight
    assert weight.max() <= (1 + 1e-6) / mixture
    assert weight.max() > 0.8 / mixture


def test_the_floor_bounds_the_weight() -> None:
    """w = Z / L <= Z / floor (method.md, section 4)."""
    floor = 0.2
    scores = torch.linspace(-2, 2, V)
    hardness = torch.where(torch.arange(V) % 2 == 0, 4.0, -30.0)
    sampler = HardnessLossSampler(GivenHead(hardness), objective("hp_loss", False, "mean", 0.0, floor=floor))
    uniform = torch.rand(5000, generator=random(0), dtype=torch.float64)
    weight = propose(sampler, masked_rows(scores.expand(5000, V), uniform)).weight
    believed = np.where(np.arange(V) % 2 == 0, np.log1p(np.exp(4)), 0) + floor
    p = torch.softmax(scores.double(), -1).numpy()
    assert float(weight.max()) == pytest.approx((p @ believed) / floor, rel=1e-5)


@pytest.mark.parametrize("name", ["electra", "temperature", "hp_loss", "hp_dist", "two_scalars"])
def test_extreme_scores_give_possible_tokens_and_finite_weights(name: str) -> None:
    scores = torch.randn(64, V, generator=random(0))
    scores[:16] *= 1e4
    scores[16:32, ::2] = -1e4
    scores[48:, 3] = 1e4
    uniform = torch.cat([torch.zeros(32), torch.full((32,), 1 - 2.0**-53, dtype=torch.float64)])
    sampler = roughened(build_sampler(objective(name), MODEL, seed=0))
    masked = masked_rows(scores, uniform[torch.randperm(64, generator=random(1))])
    for impossible in (0, V // 2):
        # Whole tiles of tokens that can't come, at either width.
        masked.bias[:impossible] = -torch.inf
        for columns in (7, V):
            drawn = propose(sampler, masked, tiling=replace(ON_CPU, columns=columns))
            assert drawn.weight.isfinite().all()
            assert (drawn.weight > 0).all()
            possible = scores + masked.bias
            chosen = possible.gather(1, drawn.tokens[:, None])[:, 0]
            assert (possible.amax(-1) - chosen < 200).all()


def test_a_head_that_has_run_away_still_gives_a_token() -> None:
    """Its loss is large then, but nothing is out of range or not a number."""
    scores = torch.linspace(-1, 1, V).expand(8, V)
    table = torch.full((V,), -1000.0)
    table[2] = 1000.0
    uniform = torch.linspace(0, 1 - 2.0**-53, 8, dtype=torch.float64)
    for sampler in (
        HardnessDistributionSampler(GivenHead(table), objective("hp_dist")),
        HardnessLossSampler(GivenHead(table), objective("hp_loss")),
    ):
        drawn = propose(sampler, masked_rows(scores, uniform))
        assert drawn.weight.isfinite().all()
        assert (drawn.weight <= 10 * (1 + 1e-6)).all()
        assert (drawn.tokens == 2).sum() >= 6


@pytest.mark.parametrize("name", ["hp_loss", "hp_dist"])
def test_the_own_token_score_is_used_at_the_original_and_nowhere_else(name: str) -> None:
    """An own score far below the others makes the original rare, and leaves the other tokens' proportions."""
    own = Case(name, own_token=True)
    own.believed = own.believed.copy()
    own.believed[ORIGINAL] = 1e-4
    sampler = own.make_sampler(name)
    uniform = torch.rand(20_000, generator=random(0), dtype=torch.float64)
    plain = propose(own.sampler, own.masked(uniform)).tokens
    rare = propose(sampler, own.masked(uniform)).tokens
    assert (plain == ORIGINAL).sum() > 100
    assert (rare == ORIGINAL).sum() < 10
    counts = torch.bincount(rare, minlength=V).double().numpy()
    q = own.p * own.believed / (own.p * own.believed).sum()
    counts, q = np.delete(counts, ORIGINAL), np.delete(q, ORIGINAL)
    assert stats.chisquare(counts, q / q.sum() * counts.sum()).pvalue > 1e-4


def test_a_shuffled_head_gives_each_hardness_to_another_token_and_keeps_weights_exact() -> None:
    """The same values at every position, no relation to the tokens (a control), and still E_q[w] = 1."""
    settings = objective("hp_loss", own_token=True, mixture=0.0)
    plain = roughened(build_sampler(settings, MODEL, seed=3))
    settings.head.shuffled = True
    shuffled = build_sampler(settings, MODEL, seed=3)
    shuffled.load_state_dict(plain.state_dict())
    # All tokens equally likely, so that q/p tells each token's hardness.
    masked = masked_rows(torch.zeros(4000, V), (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    masked.hidden[:] = masked.hidden[0].clone()

    def hardness(sampler: Sampler) -> dict[int, float]:
        drawn = propose(sampler, masked)
        assert float(drawn.weight.double().mean()) == pytest.approx(1, rel=0.01)
        return {int(token): float(value) for token, value in zip(drawn.tokens, drawn.hardness, strict=True)}

    before, after = hardness(plain), hardness(shuffled)
    assert len(before) == len(after) == V
    assert sorted(before.values()) == pytest.approx(sorted(after.values()), rel=1e-4)
    assert sum(before[token] != pytest.approx(after[token], rel=1e-3) for token in before) > V / 2
