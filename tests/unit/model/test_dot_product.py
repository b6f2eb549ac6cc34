"""Attention on a processor is the formula, in single precision at least, with or without dropout of its weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from electra_scale.model.dot_product import attend, precision_of_attention
from electra_scale.model.dropout import drop


def seeded(values: Tensor, share: float) -> Tensor:
    torch.manual_seed(5)
    return drop(values, share)


def _attended(query: Tensor, key: Tensor, value: Tensor, added: Tensor | None, factors: Tensor) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(query.shape[-1])
    scores = scores if added is None else scores + added
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1) * factors, value)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_drops_weights_and_is_otherwise_the_formula(masked: bool) -> None:
    torch.manual_seed(1)
    query, key, value = (torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    added = torch.zeros(2, 1, 5, 5, dtype=torch.float64) if masked else None
    if added is not None:
        added[:, :, :3, 3:] = added[:, :, 3:, :3] = -torch.inf
    factors = seeded(torch.ones(2, 3, 5, 5, dtype=torch.float64), 0.3)
    assert 0 < int((factors == 0).sum()) < factors.numel()
    torch.manual_seed(5)
    found = attend(query, key, value, added, 0.3)
    expected = _attended(query, key, value, added, factors)
    assert torch.allclose(found, expected, rtol=1e-12)
    weight = torch.randn_like(found)
    for mine, theirs in zip(
        torch.autograd.grad(found, (query, key, value), weight),
        torch.autograd.grad(expected, (query, key, value), weight),
        strict=True,
    ):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)


def test_attention_without_dropout_is_torchs_own_and_with_it_is_equal_on_average() -> None:
    torch.manual_seed(2)
    query, key, value = (torch.randn(1, 2, 6, 8) for _ in range(3))
    plain = F.scaled_dot_product_attention(query, key, value)
    assert torch.equal(attend(query, key, value, None, 0.0), plain)
    drawn = torch.stack([attend(query, key, value, None, 0.1) for _ in range(4000)])
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert bool(((drawn.mean(0) - plain).abs() < 5 * error).all())


@pytest.mark.parametrize("share", [0.0, 0.1])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_16_bits_works_in_single_precision(share: float, masked: bool) -> None:
    torch.manual_seed(3)
    query, key, value = (torch.randn(1, 2, 9, 8).bfloat16() for _ in range(3))
    assert precision_of_attention(query) == torch.float32
    added = torch.randn(1, 1, 9, 9) if masked else None
    factors = seeded(torch.ones(1, 2, 9, 9), share)
    torch.manual_seed(5)
    found = attend(query, key, value, added, share)
    expected = _attended(query.float(), key.float(), value.float(), added, factors)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected, rtol=2**-8, atol=1e-6)
