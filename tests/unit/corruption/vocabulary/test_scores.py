"""One score for loss, hits, entropy, draw and weight, in float32 whatever the precision of the networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from electra_scale.corruption.sampler import Masked
from electra_scale.corruption.samplers.build import build_sampler
from electra_scale.corruption.samplers.head_scores import HeadScores
from electra_scale.corruption.vocabulary.tiles import ON_CPU
from electra_scale.corruption.vocabulary.vocabulary_pass import VocabularyPass, propose, vocabulary_pass
from tests.unit.corruption.conftest import MODEL, objective, random, roughened

E = 64
M = 400
PRECISIONS = ("float32", "bfloat16", "autocast")
SAMPLERS = ("temperature", "hp_loss", "hp_dist")


def sure(vocabulary: int, sharpness: float = 1.5, shift: float = 0.0) -> Masked:
    """Positions whose features point at the original: it is likeliest at most of them, and never by much."""
    generator = random(0)
    words = torch.randn(vocabulary, E, generator=generator)
    original = torch.randint(vocabulary, (M,), generator=generator)
    noise = torch.randn(M, E, generator=generator)
    features = sharpness * (0.25 * words[original] + 0.6 * noise)
    bias = 0.3 * torch.randn(vocabulary, generator=generator) + shift
    uniform = torch.rand(M, generator=generator, dtype=torch.float64)
    return Masked(features, words, bias, torch.randn(M, MODEL.generator.hidden, generator=generator), original, uniform)


def of_precision(masked: Masked, precision: str) -> Masked:
    """As networks of that precision give it; under autocast the features alone are of 16 bits."""
    kinds: dict[str, tuple[str, ...]] = {
        "float32": (),
        "bfloat16": ("features", "word_embeddings", "bias", "hidden"),
        "autocast": ("features", "hidden"),
    }
    return replace(masked, **{name: getattr(masked, name).bfloat16() for name in kinds[precision]})


def measured(masked: Masked, precision: str, columns: int = 2048, sampler: Any = None) -> VocabularyPass:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        return vocabulary_pass(masked, sampler, entropy=True, tiling=replace(ON_CPU, columns=columns))


def exact_scores(masked: Masked) -> Tensor:
    """(M, V) in float64 of the numbers that the networks gave."""
    return masked.features.double() @ masked.word_embeddings.double().T + masked.bias.double()


@pytest.mark.parametrize("columns", [128, 2048])
@pytest.mark.parametrize("vocabulary", [50, 3000])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_accuracy_log_probability_and_entropy_are_those_of_an_enumeration(
    precision: str, vocabulary: int, columns: int
) -> None:
    masked = of_precision(sure(vocabulary), precision)
    found = measured(masked, precision, columns)
    scores = exact_scores(masked)
    log_p = scores.log_softmax(-1)
    likeliest = scores.argmax(-1) == masked.original
    assert 0.2 < likeliest.double().mean() < 0.98
    assert torch.equal(found.hits, likeliest)
    own = log_p.gather(1, masked.original[:, None])[:, 0]
    torch.testing.assert_close(found.log_probability.double(), own, rtol=1e-5, atol=2e-5)
    entropy = -(log_p.exp() * log_p).sum(-1)
    assert found.entropy is not None
    torch.testing.assert_close(found.entropy.double(), entropy, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_generator_that_is_always_right_has_accuracy_1(precision: str) -> None:
    masked = sure(300)
    masked = of_precision(replace(masked, features=2 * masked.word_embeddings[masked.original]), precision)
    found = measured(masked, precision)
    assert found.hits is not None
    assert bool(found.hits.all())


@pytest.mark.parametrize("columns", [7, 2048])
def test_an_original_whose_score_is_about_zero_is_a_hit_where_it_is_the_likeliest(columns: int) -> None:
    """Its score is a sum of large terms that cancel, so that the rounding of another order of summing exceeds it."""
    masked = sure(400)
    scores = exact_scores(masked)
    # All other tokens far below; the original's own score is 0 but for rounding.
    own = scores.gather(1, masked.original[:, None])[:, 0]
    shifted = torch.cat([masked.features, own.float()[:, None]], 1)
    words = torch.cat([masked.word_embeddings, torch.full((400, 1), -1.0)], 1)
    bias = torch.where(torch.arange(400) % 2 == 0, masked.bias, masked.bias - 1000)
    masked = replace(masked, features=shifted * 30, word_embeddings=words, bias=bias)
    found = measured(masked, "float32", columns)
    scores = exact_scores(masked)
    top = scores.topk(2, -1).values
    clear = top[:, 0] - top[:, 1] > 1e-2
    assert int((clear & (scores.argmax(-1) == masked.original)).sum()) > 50
    assert torch.equal(found.hits[clear], (scores.argmax(-1) == masked.original)[clear])  # type: ignore[index]


@pytest.mark.parametrize("columns", [7, 64, 128, 2048])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tokens_that_are_equally_likely_are_all_hits(precision: str, columns: int) -> None:
    """Every token has a twin, in another tile or another part of one."""
    masked = sure(301)
    masked = replace(masked, features=masked.word_embeddings[masked.original])
    words, bias = masked.word_embeddings.repeat(2, 1), masked.bias.repeat(2)
    for shift in (0, 301):
        twins = replace(masked, word_embeddings=words, bias=bias, original=masked.original + shift)
        found = measured(of_precision(twins, precision), precision, columns)
        assert found.hits is not None
        assert bool(found.hits.all())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_weights_are_the_exact_ratio_of_what_is_drawn_from(name: str, precision: str) -> None:
    masked = of_precision(sure(50), precision)
    sampler: Any = roughened(build_sampler(replace(objective(name, mixture=0.1), temperature=1.7), _model(50), seed=0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        drawn = propose(sampler.bfloat16() if precision == "bfloat16" else sampler, masked)
    wide = Masked(**{key: part.double() if part.is_floating_point() else part for key, part in vars(masked).items()})
    exact = propose(sampler.double(), wide)
    same = drawn.tokens == exact.tokens
    assert same.double().mean() > 0.98
    torch.testing.assert_close(drawn.weight.double()[same], exact.weight[same], rtol=2e-4, atol=1e-6)
    torch.testing.assert_close(drawn.log_p.double()[same], exact.log_p[same], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", ["rms", "mean"])
def test_the_head_is_fitted_by_the_very_scores_that_it_draws_by(form: str, precision: str) -> None:
    masked = of_precision(sure(50), precision)
    sampler: Any = roughened(build_sampler(objective("hp_loss", form=form), _model(50), seed=0))
    sampler = sampler.bfloat16() if precision == "bfloat16" else sampler
    assert {parameter.dtype for parameter in sampler.parameters()} == {torch.float32}
    fitted: list[Tensor] = []
    sampler.fit = lambda score, loss: fitted.append(score) or score
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        drawn = propose(sampler, masked)
    sampler.loss(masked, drawn, torch.ones(M))
    assert fitted[0].dtype == torch.float32
    torch.testing.assert_close(fitted[0], HeadScores(sampler.head, masked).at(drawn.tokens), rtol=1e-6, atol=1e-6)


def test_a_head_moves_to_float64_with_its_networks_and_never_below_float32() -> None:
    sampler = build_sampler(objective("hp_loss"), MODEL, seed=0)
    for cast, kind in (
        (lambda: sampler.bfloat16(), torch.float32),
        (lambda: sampler.half(), torch.float32),
        (lambda: sampler.double(), torch.float64),
        (lambda: sampler.to(torch.bfloat16), torch.float32),
    ):
        cast()
        assert {parameter.dtype for parameter in sampler.parameters()} == {kind}


def _model(vocabulary: int) -> Any:
    return replace(MODEL, vocab_size=vocabulary, embedding=E)
