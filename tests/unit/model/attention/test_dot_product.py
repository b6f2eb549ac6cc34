"""Attention on a processor is the formula, in any precision, with or without dropout of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from electra_scale.model.attention import dot_product
from electra_scale.model.attention.dot_product import attend, precision_of_attention
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


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Say whether the processor has instructions for bf16."""
    return lambda has: monkeypatch.setattr(dot_product, "_has_products", lambda dtype: has and dtype == torch.bfloat16)


@pytest.mark.parametrize("share", [0.0, 0.1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("instructions", [False, True])
def test_attention_in_bf16_is_in_single_precision_unless_the_processor_has_instructions_for_it(
    instructions: bool, share: float, masked: bool, processor: Callable[[bool], None]
) -> None:
    processor(instructions)
    torch.manual_seed(3)
    given = [torch.randn(1, 2, 9, 8).bfloat16().requires_grad_() for _ in range(3)]
    precision = precision_of_attention(given[0], 9, share)
    assert precision == (torch.bfloat16 if instructions else torch.float32)
    added = torch.zeros(1, 1, 9, 9) if masked else None
    if added is not None:
        added[..., :4, 4:] = added[..., 4:, :4] = -torch.inf
    factors = seeded(torch.ones(1, 2, 9, 9), share)
    torch.manual_seed(5)
    found = attend(*given, None if added is None else added.to(precision), share)
    wide = [one.detach().double().requires_grad_() for one in given]
    expected = _attended(*wide, added, factors.double())
    assert found.dtype == torch.bfloat16
    # A score is rounded by up to 2^-9 of itself, and its exponential by as much as it is large; then weights are.
    bound = 2**-5 if instructions else 2**-8
    assert torch.allclose(found.double(), expected, rtol=bound, atol=bound)
    weight = torch.randn_like(found)
    for mine, exact in zip(
        torch.autograd.grad(found, given, weight), torch.autograd.grad(expected, wide, weight.double()), strict=True
    ):
        assert mine.dtype == torch.bfloat16
        assert float((mine.double() - exact).norm()) < bound * float(exact.norm())


def test_long_rows_keep_no_scores_in_bf16(processor: Callable[[bool], None]) -> None:
    processor(True)
    states = torch.randn(1, 2, 640, 8).bfloat16()
    assert precision_of_attention(states, 512, 0.0) == torch.bfloat16
    assert precision_of_attention(states, 640, 0.0) == torch.float32
    assert precision_of_attention(states, 640, 0.1) == torch.bfloat16
    plain = F.scaled_dot_product_attention(states.float(), states.float(), states.float())
    assert torch.equal(attend(states, states, states, None, 0.0), plain.bfloat16())


def test_16_bits_that_no_processor_multiplies_are_in_single_precision(processor: Callable[[bool], None]) -> None:
    processor(True)
    assert precision_of_attention(torch.empty(0, dtype=torch.float16), 9, 0.1) == torch.float32
    assert precision_of_attention(torch.empty(0, dtype=torch.float64), 9, 0.1) == torch.float64
