"""Our dropout on a processor: shares, scales and gradients of dropout whatever the size, the same from one seed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from electra_scale.model.dropout import Dropout, attend, drop

UNITS = 1 << 16


def seeded(values: Tensor, share: float, seed: int = 5) -> Tensor:
    torch.manual_seed(seed)
    return drop(values, share)


@pytest.mark.parametrize("share", [0.1, 0.5, 1 / 3, 0.9, 1 / UNITS, 0.99999])
def test_a_value_is_dropped_with_the_nearest_share_and_scaled_by_what_is_kept(share: float) -> None:
    found = seeded(torch.ones(1 << 20), share)
    units = min(round(share * UNITS), UNITS - 1)
    count = int((found == 0).sum())
    expected = units / UNITS * len(found)
    assert abs(count - expected) < 5 * math.sqrt(expected * (1 - units / UNITS)) + 1
    kept = found[found != 0]
    assert torch.equal(kept, torch.full_like(kept, UNITS / (UNITS - units)))


def test_neighbours_are_dropped_independently_of_each_other() -> None:
    """Four of them share one random number of 64 bits."""
    dropped = (seeded(torch.ones(1 << 20), 0.5) == 0).view(-1, 4)
    patterns = (dropped * torch.tensor([1, 2, 4, 8])).sum(1).bincount(minlength=16).double()
    expected = len(dropped) / 16
    # Chi-square of 15 degrees: above 44 once in 10,000 seeds.
    assert float(((patterns - expected) ** 2 / expected).sum()) < 44


@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (5, 7), (2, 3, 5), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_size_and_precision_keeps_what_it_is(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    found = seeded(torch.ones(shape, dtype=dtype), 0.25)
    assert found.shape == shape
    assert found.dtype == dtype
    assert set(found.flatten().tolist()) <= {0.0, float(torch.tensor(4 / 3, dtype=dtype))}


def test_a_seed_names_what_is_dropped_on_any_number_of_threads() -> None:
    values = torch.randn(1 << 18)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = seeded(values, 0.1)
        torch.set_num_threads(2)
        two = seeded(values, 0.1)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, two)
    assert not torch.equal(one, seeded(values, 0.1, seed=6))


def test_gradients_pass_where_values_do() -> None:
    values = torch.randn(7, 9, requires_grad=True)
    found = seeded(values, 0.4)
    found.backward(torch.full_like(found, 3.0))
    assert values.grad is not None
    assert torch.equal(values.grad, 3 * seeded(torch.ones(7, 9), 0.4))
    assert torch.equal(found, values.detach() * seeded(torch.ones(7, 9), 0.4))


def test_a_value_that_is_not_a_number_is_gone_where_it_is_dropped() -> None:
    found = seeded(torch.full((1000,), math.nan), 0.5)
    assert 0 < int(found.isnan().sum()) < 1000
    assert set(found[~found.isnan()].tolist()) == {0.0}


def test_nothing_is_dropped_in_evaluation_or_with_a_share_of_0() -> None:
    values = torch.randn(50)
    state = torch.get_rng_state()
    assert Dropout(0.9).eval()(values) is values
    assert Dropout(0.0).train()(values) is values
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(Dropout(0.9).train()(values), values)


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


def test_attention_in_16_bits_works_in_single_precision() -> None:
    torch.manual_seed(3)
    query, key, value = (torch.randn(1, 2, 9, 8).bfloat16() for _ in range(3))
    factors = seeded(torch.ones(1, 2, 9, 9), 0.1)
    torch.manual_seed(5)
    found = attend(query, key, value, None, 0.1)
    expected = _attended(query.float(), key.float(), value.float(), None, factors)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected, rtol=2**-8, atol=1e-6)
