"""Our dropout on a processor, native and numpy's: shares, scales and gradients of any size, the same from one seed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from electra_scale.model import native_dropout
from electra_scale.model.dropout import Dropout, drop, dropped

UNITS = 1 << 16


@pytest.fixture(autouse=True, params=["native", "numpy"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who makes the random numbers."""
    if request.param == "native":
        request.getfixturevalue("c_compiler")
        assert native_dropout.works_for(torch.ones(1))
    else:
        monkeypatch.setattr(native_dropout, "works_for", lambda _: False)
    found: str = request.param
    return found


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


@pytest.mark.parametrize("apart", [1, 2, 16, 32, 4096])
def test_neighbours_are_dropped_independently_of_each_other(apart: int) -> None:
    """Two or four of them share a random number, and others a generator."""
    dropped = (seeded(torch.ones(1 << 20), 0.5) == 0).view(-1, 4, apart).transpose(1, 2).reshape(-1, 4)
    patterns = (dropped * torch.tensor([1, 2, 4, 8])).sum(1).bincount(minlength=16).double()
    expected = len(dropped) / 16
    # Chi-square of 15 degrees: above 44 once in 10,000 seeds.
    assert float(((patterns - expected) ** 2 / expected).sum()) < 44


def test_neighbouring_seeds_drop_independently_of_each_other() -> None:
    one, other = (dropped(torch.ones(1 << 20), 0.5, seed) == 0 for seed in (7, 8))
    # Five deviations.
    assert abs(int((one == other).sum()) - (1 << 19)) < 5 * (1 << 9)


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


def test_a_gradient_that_lies_otherwise_passes_at_the_same_places() -> None:
    values = torch.randn(40, 30, requires_grad=True)
    found = seeded(values, 0.4)
    gradient = torch.randn(30, 40).T
    found.backward(gradient)
    assert values.grad is not None
    assert torch.equal(values.grad, gradient * seeded(torch.ones(40, 30), 0.4))
