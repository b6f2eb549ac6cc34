"""The pass in tiles against scores formed all at once (method.md, section 9, checks 2 and 6)."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from electra_scale.corruption.sampler import Masked, Sampler
from electra_scale.corruption.samplers.build import build_sampler
from electra_scale.corruption.samplers.hp_loss import HardnessLossSampler
from electra_scale.corruption.vocabulary.generator_loss import focal_loss, focal_slope
from electra_scale.corruption.vocabulary.tiles import ON_CPU, ON_DEVICE
from electra_scale.corruption.vocabulary.vocabulary_pass import propose, vocabulary_pass
from tests.support.instruments.head_scores import own as own_score
from tests.support.instruments.head_scores import scores as head_scores
from tests.unit.corruption.conftest import EMBEDDING, HIDDEN, MODEL, V, objective, random, roughened

M = 23
COLUMNS = (1, 7, V - 1, V, 2 * V)
EVERY = ("electra", "temperature", "hp_loss", "hp_dist")


def positions(seed: int = 0, dtype: torch.dtype = torch.float64) -> Masked:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    generator = random(seed)
    return Masked(
        features=normal(M, EMBEDDING).mul_(0.3).requires_grad_(),
        word_embeddings=normal(V, EMBEDDING).requires_grad_(),
        bias=normal(V).requires_grad_(),
        hidden=normal(M, HIDDEN).requires_grad_(),
        original=torch.randint(V, (M,), generator=generator),
        uniform=torch.rand(M, generator=generator, dtype=torch.float64),
    )


def make_sampler(
    name: str, own_token: bool = True, form: str = "rms", mixture: float = 0.1, roughness: float = 0.5
) -> Sampler:
    return roughened(build_sampler(objective(name, own_token, form, mixture), MODEL, seed=0), roughness).double()


def direct(masked: Masked, sampler: Sampler, gamma: float) -> dict[str, Tensor]:
    """Losses, q and w the short way, with M x V tensors all over."""
    scores = masked.features @ masked.word_embeddings.T + masked.bias
    log_p = torch.log_softmax(scores, -1)
    row = torch.arange(len(scores))
    loss = focal_loss(log_p[row, masked.original], gamma).sum()
    drawable = scores.detach()
    if not sampler.allow_original:
        drawable = drawable.scatter(1, masked.original[:, None], -torch.inf)
    log_drawable = torch.log_softmax(drawable, -1)
    tilt = torch.zeros_like(scores)
    head: Any = getattr(sampler, "head", None)
    if head is not None:
        tilt = head_scores(head, masked.hidden, masked.word_embeddings)
        if head.own_token is not None:
            own = torch.nn.functional.one_hot(masked.original, scores.shape[1]).bool()
            tilt = torch.where(own, own_score(head, masked.hidden)[:, None], tilt)
    if isinstance(sampler, HardnessLossSampler):
        hardness = torch.nn.functional.softplus(tilt)
        tilt = ((hardness.sqrt() if sampler.rms else hardness) + sampler.floor).log()
    temperature = getattr(sampler, "temperature", 1.0)
    log_q = torch.log_softmax(drawable / temperature + tilt, -1)
    q = (1 - sampler.mixture) * log_q.exp() + sampler.mixture * log_drawable.exp()
    cumulative = q.cumsum(-1)
    tokens = torch.searchsorted(cumulative, masked.uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return {
        "loss": loss,
        "q": q,
        "tokens": tokens,
        "weight": (log_drawable.exp() / q)[row, tokens],
        "log_q": log_q[row, tokens],
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "hits": scores.argmax(-1) == masked.original,
    }


def gradients(loss: Tensor, masked: Masked, sampler: Sampler) -> list[Tensor]:
    inputs = [masked.features, masked.word_embeddings, masked.bias, masked.hidden, *sampler.parameters()]
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(part) if one is None else one for part, one in zip(inputs, found, strict=True)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.detach().abs().max()))


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("own_token", [True, False])
@pytest.mark.parametrize("name", EVERY)
def test_any_tile_width_gives_what_the_direct_computation_gives(
    name: str, own_token: bool, gamma: float, columns: int
) -> None:
    masked, sampler = positions(), make_sampler(name, own_token)
    expected = direct(masked, sampler, gamma)
    found = vocabulary_pass(masked, sampler, gamma, entropy=True, tiling=replace(ON_CPU, columns=columns))
    drawn = found.drawn
    assert drawn is not None
    assert torch.equal(drawn.tokens, expected["tokens"])
    assert torch.equal(found.hits, expected["hits"])
    torch.testing.assert_close(found.loss, expected["loss"])
    torch.testing.assert_close(drawn.weight, expected["weight"].detach())
    torch.testing.assert_close(found.entropy, expected["entropy"].detach())
    scale = torch.tensor(3.0, dtype=torch.float64)
    wanted = gradients(scale * expected["loss"], masked, sampler)
    assert_close(gradients(scale * found.loss, masked, sampler), wanted, 1e-9)


@pytest.mark.parametrize("columns", [7, 2 * V])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("name", EVERY)
def test_without_originals_the_draw_is_another_and_the_generators_loss_the_same(
    name: str, gamma: float, columns: int
) -> None:
    masked, sampler = positions(), make_sampler(name)
    # Some originals that the generator is nearly sure of.
    with torch.no_grad():
        masked.bias[3] = 12.0
    masked.original[:8] = 3
    plain = vocabulary_pass(masked, sampler, gamma, entropy=True, tiling=replace(ON_CPU, columns=columns))
    sampler.allow_original = False
    expected = direct(masked, sampler, gamma)
    found = vocabulary_pass(masked, sampler, gamma, entropy=True, tiling=replace(ON_CPU, columns=columns))
    assert found.drawn is not None
    assert torch.equal(found.drawn.tokens, expected["tokens"])
    assert not (found.drawn.tokens == masked.original).any()
    torch.testing.assert_close(found.drawn.weight, expected["weight"].detach())
    for key in ("loss", "log_probability", "hits", "entropy"):
        torch.testing.assert_close(vars(found)[key], vars(plain)[key])
    assert_close(gradients(found.loss, masked, sampler), gradients(plain.loss, masked, sampler), 1e-9)


def test_a_generator_that_is_sure_of_the_originals_has_finite_gradients_without_them() -> None:
    masked, sampler = positions(dtype=torch.float32), make_sampler("hp_loss").float()
    sampler.allow_original = False
    with torch.no_grad():
        masked.bias[3] = 300.0
    masked.original[:] = 3
    found = vocabulary_pass(masked, sampler, 1.0, entropy=True)
    assert found.drawn is not None
    assert found.drawn.weight.isfinite().all()
    assert float(found.loss.detach()) == pytest.approx(0, abs=1e-6)
    assert all(gradient.isfinite().all() for gradient in gradients(found.loss, masked, sampler))


@pytest.mark.parametrize("allow_original", [True, False])
@pytest.mark.parametrize("own_token", [True, False])
def test_the_gradient_of_hp_dist_is_that_of_log_q(
    own_token: bool, allow_original: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = positions()
    # A head that says little, and one likely token: then some draws equal the original and some do not.
    sampler: Any = make_sampler("hp_dist", own_token, roughness=0.1)
    losses = torch.rand(M, generator=random(5), dtype=torch.float64)
    masked.original[:12] = 3
    with torch.no_grad():
        masked.bias[3] = 10.0
    drawn = propose(sampler, masked)
    assert 3 <= int((drawn.tokens == masked.original).sum()) <= M - 3
    sampler.allow_original = allow_original
    drawn = propose(sampler, masked)
    log_q = direct(masked, sampler, 0.0)["log_q"]
    wanted = gradients(-(drawn.weight * losses * log_q).sum(), masked, sampler)
    # The generator's scores and the word embeddings are constants to the head.
    for constant in wanted[:3]:
        constant.zero_()
    for columns in (7, V, 2 * V):
        tiling = replace(ON_CPU, columns=columns, rows=10)
        monkeypatch.setattr("electra_scale.corruption.samplers.hp_dist.tiling_of", lambda _, tiling=tiling: tiling)
        found = gradients(sampler.loss(masked, drawn, losses).sum(), masked, sampler)
        assert_close(found, wanted, 1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), columns=st.integers(1, 2 * V), memory=st.integers(1, 100_000))
def test_neither_tiles_nor_blocks_change_anything(seed: int, columns: int, memory: int) -> None:
    masked, sampler = positions(seed), make_sampler("hp_loss")
    whole = vocabulary_pass(masked, sampler)
    parts = vocabulary_pass(masked, sampler, tiling=replace(ON_CPU, columns=columns, memory=memory))
    assert whole.drawn is not None
    assert parts.drawn is not None
    assert torch.equal(whole.drawn.tokens, parts.drawn.tokens)
    torch.testing.assert_close(whole.drawn.weight, parts.drawn.weight)
    assert_close(gradients(parts.loss, masked, sampler), gradients(whole.loss, masked, sampler), 1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_many_blocks_of_positions_give_what_a_devices_one_tile_gives(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked, sampler = positions(), make_sampler(name)
    whole = vocabulary_pass(masked, sampler, entropy=True, tiling=ON_DEVICE)
    monkeypatch.setattr("electra_scale.corruption.vocabulary.vocabulary_pass._FEWEST_ROWS", 1)
    parts = vocabulary_pass(masked, sampler, entropy=True, tiling=replace(ON_CPU, columns=7, memory=V * 8 * 2 * 5))
    assert whole.drawn is not None
    assert parts.drawn is not None
    for one, other in ((whole, parts), (whole.drawn, parts.drawn)):
        for key, value in vars(one).items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(vars(other)[key], value)


def test_no_positions_give_no_loss_and_gradients_of_zero() -> None:
    masked = positions()
    none = Masked(masked.features[:0], masked.word_embeddings, masked.bias, masked.hidden[:0],
                  masked.original[:0], masked.uniform[:0])  # fmt: skip
    sampler = make_sampler("hp_loss")
    found = vocabulary_pass(none, sampler, entropy=True)
    assert found.drawn is not None
    assert len(found.drawn.tokens) == len(found.log_probability) == 0
    assert float(found.loss.detach()) == 0
    assert not any(gradient.any() for gradient in gradients(found.loss, masked, sampler))


def test_without_a_sampler_there_is_a_loss_and_no_draw() -> None:
    masked = positions()
    found = vocabulary_pass(masked)
    assert found.drawn is None
    assert found.entropy is None
    torch.testing.assert_close(found.loss, direct(masked, make_sampler("electra"), 0.0)["loss"])


def test_nothing_is_differentiated_where_nobody_asks() -> None:
    masked = positions()
    with torch.no_grad():
        found = vocabulary_pass(masked, make_sampler("hp_loss"))
    assert not found.loss.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_single_and_half_precision_stay_near_double(dtype: torch.dtype) -> None:
    exact, rough = positions(), positions(dtype=dtype)
    sampler = make_sampler("hp_loss")
    loss = vocabulary_pass(exact, sampler).loss
    other = sampler.to(dtype)
    found = vocabulary_pass(rough, other)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    assert found.loss.dtype == torch.float32
    assert float(found.loss.detach()) == pytest.approx(float(loss.detach()), rel=tolerance)
    for one, other_one in zip(
        gradients(loss, exact, make_sampler("electra")), gradients(found.loss, rough, make_sampler("electra")),
        strict=True,
    ):  # fmt: skip
        assert (one - other_one.double()).norm() <= tolerance * max(float(one.norm()), 1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
def test_the_slope_of_the_focal_loss_is_its_derivative(gamma: float) -> None:
    log_p = torch.tensor([-30.0, -3.0, -0.1, -1e-4, -1e-9], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(focal_loss(log_p, gamma).sum(), log_p)
    torch.testing.assert_close(focal_slope(log_p.detach(), gamma), expected)


def test_a_certain_generator_has_a_finite_slope() -> None:
    for gamma in (0.0, 0.5, 1.0, 2.0):
        assert focal_slope(torch.zeros(2), gamma).isfinite().all()


@pytest.mark.parametrize("columns", [7, V])
def test_scores_of_ten_thousand_and_impossible_tokens_leave_finite_losses_and_gradients(columns: int) -> None:
    masked = positions(dtype=torch.float32)
    with torch.no_grad():
        masked.bias[: V // 2] = -torch.inf
        masked.bias[V // 2] = 1e4
        masked.bias[V // 2 + 1] = -1e4
        masked.original[:] = V // 2 + 2
    sampler = make_sampler("hp_loss").float()
    found = vocabulary_pass(masked, sampler, 1.0, entropy=True, tiling=replace(ON_CPU, columns=columns))
    assert found.loss.isfinite()
    assert found.entropy is not None
    assert torch.allclose(found.entropy, torch.zeros(M), atol=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients(found.loss, masked, sampler))


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("name", EVERY)
def test_scores_that_are_not_numbers_give_a_loss_that_says_so_and_tokens_of_the_vocabulary(
    name: str, columns: int
) -> None:
    masked = positions()
    masked = dataclasses.replace(masked, features=torch.full_like(masked.features, torch.nan).requires_grad_())
    found = vocabulary_pass(masked, make_sampler(name), 0.0, tiling=replace(ON_CPU, columns=columns))
    assert found.loss.isnan()
    assert found.drawn is not None
    assert ((found.drawn.tokens >= 0) & (found.drawn.tokens < V)).all()


@pytest.mark.parametrize("own_score", [1e4, -1e4])
@pytest.mark.parametrize("form", ["rms", "mean"])
def test_a_head_that_says_ten_thousand_leaves_finite_weights(form: str, own_score: float) -> None:
    masked = positions(dtype=torch.float32)
    sampler: Any = make_sampler("hp_loss", form=form).float()
    with torch.no_grad():
        sampler.head.own_token.bias.fill_(own_score)
    drawn = propose(sampler, masked)
    assert drawn.weight.isfinite().all()
    assert drawn.hardness.isfinite().all()
    assert (drawn.weight > 0).all()


@pytest.mark.parametrize("name", EVERY)
def test_single_precision_draws_from_a_large_vocabulary_are_those_of_double(name: str) -> None:
    size, rows = 5000, 200
    generator = random(3)
    model = dataclasses.replace(MODEL, vocab_size=size)
    sampler: Any = roughened(build_sampler(objective(name), model, seed=0), 0.2)
    masked = Masked(
        features=torch.randn(rows, EMBEDDING, generator=generator),
        word_embeddings=torch.randn(size, EMBEDDING, generator=generator).mul_(0.4),
        bias=torch.randn(size, generator=generator),
        hidden=torch.randn(rows, HIDDEN, generator=generator),
        original=torch.randint(size, (rows,), generator=generator),
        uniform=torch.rand(rows, generator=generator, dtype=torch.float64),
    )
    tokens = propose(sampler, masked).tokens[:, None]
    wide = Masked(**{key: part.double() if part.is_floating_point() else part for key, part in vars(masked).items()})
    cumulative = direct(wide, sampler.double(), 0.0)["q"].cumsum(-1)
    above = cumulative.gather(1, tokens)[:, 0]
    below = torch.where(tokens == 0, 0.0, cumulative.gather(1, (tokens - 1).clamp(min=0)))[:, 0]
    assert len(tokens.unique()) > 20
    assert (below - 1e-5 <= masked.uniform).all()
    assert (masked.uniform <= above + 1e-5).all()
