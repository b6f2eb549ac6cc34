"""The focal loss: cross-entropy at gamma 0, the standard form elsewhere, finite at both ends (method.md, check 2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor
from torch.nn.functional import cross_entropy

from electra_scale.corruption.vocabulary.generator_loss import focal_loss
from tests.unit.corruption.conftest import V, random

GAMMAS = (0.5, 1.0, 2.0, 4.0)


def scores_and_targets() -> tuple[Tensor, Tensor]:
    scores = 3 * torch.randn(40, V, generator=random(0), dtype=torch.float64)
    return scores.requires_grad_(), torch.randint(V, (40,), generator=random(1))


def log_probability(scores: Tensor, targets: Tensor) -> Tensor:
    return torch.log_softmax(scores, -1).gather(1, targets[:, None])[:, 0]


def test_gamma_zero_is_cross_entropy_in_value_and_gradient() -> None:
    scores, targets = scores_and_targets()
    loss = focal_loss(log_probability(scores, targets), 0.0)
    expected = cross_entropy(scores, targets, reduction="none")
    assert torch.allclose(loss, expected, rtol=1e-12)
    (ours,) = torch.autograd.grad(loss.sum(), scores)
    (theirs,) = torch.autograd.grad(expected.sum(), scores)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-15)


def test_gamma_near_zero_approaches_cross_entropy() -> None:
    scores, targets = scores_and_targets()
    log_p = log_probability(scores, targets)
    assert torch.allclose(focal_loss(log_p, 1e-9), -log_p, rtol=1e-6)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_values_and_gradients_are_those_of_the_formula(gamma: float) -> None:
    scores, targets = scores_and_targets()
    loss = focal_loss(log_probability(scores, targets), gamma)
    p = torch.softmax(scores, -1)[torch.arange(40), targets]
    expected = -((1 - p) ** gamma) * torch.log(p)
    assert torch.allclose(loss, expected, rtol=1e-9)
    (ours,) = torch.autograd.grad(loss.sum(), scores)
    (theirs,) = torch.autograd.grad(expected.sum(), scores)
    assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.1, *GAMMAS])
def test_loss_and_gradient_are_finite_at_both_ends(gamma: float) -> None:
    margins = torch.tensor([-1e4, -100.0, -20.0, 0.0, 8.0, 16.0, 17.0, 40.0, 1e4])
    scores = torch.stack([margins, torch.zeros_like(margins)], -1).requires_grad_()
    loss = focal_loss(torch.log_softmax(scores, -1)[:, 0], gamma)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert loss.isfinite().all()
    assert (loss >= 0).all()
    assert gradient.isfinite().all()
    # Certain and right: nothing left to learn. Certain and wrong: the slope of cross-entropy.
    assert float(loss.detach()[-1]) == 0
    assert gradient[-1].abs().max() < 1e-6
    assert gradient[0].tolist() == pytest.approx([-1, 1])


def test_a_sure_token_keeps_its_precision() -> None:
    """1 - p of p = 1 - 1e-9 is nothing in single precision; the loss must not be nothing."""
    log_p = torch.tensor([-1e-9])
    assert float(focal_loss(log_p, 1.0)) == pytest.approx(1e-18, rel=1e-5, abs=0)


@pytest.mark.parametrize(("gamma", "expected"), [(1, 0.77), (2, 0.69), (4, 0.62)])
def test_the_optimum_is_flatter_than_the_truth_as_method_says(gamma: int, expected: float) -> None:
    def risk(p: float) -> float:
        both = torch.tensor([p, 1 - p], dtype=torch.float64).log()
        return float(focal_loss(both, gamma) @ torch.tensor([0.9, 0.1], dtype=torch.float64))

    best = optimize.minimize_scalar(risk, bounds=(0.5, 0.999), method="bounded").x
    assert best == pytest.approx(expected, abs=0.005)
    assert np.isfinite(risk(0.5))
