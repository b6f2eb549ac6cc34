"""Attention by chunks of queries is attention inside documents, in any precision, and keeps nothing but its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from electra_scale.model.attention import chunks, dot_product, tokens
from electra_scale.model.attention.chunks import Stretch, attend_in_chunks, stretches_of
from electra_scale.model.attention.layout import Layout
from electra_scale.model.attention.tokens import Rows

HEADS = 3


def row(*documents: tuple[int, int]) -> list[int]:
    """Segments of a row, of pairs of a document and its length."""
    return [name for name, length in documents for _ in range(length)]


SEGMENTS = {
    "one document a row": [row((0, 700)), row((1, 700))],
    "rows shorter than a chunk": [row((0, 90)), row((1, 90))],
    "long and short documents": [row((0, 513), (1, 100), (2, 20), (3, 67)), row((4, 60), (5, 60), (6, 580))],
    "padding": [row((0, 300), (1, 30), (-1, 20), (2, 40), (3, 10)), row((-1, 5), (4, 290), (-1, 105)), row((-1, 400))],
    "documents of one token": [row(*((name, 1) for name in range(300)))],
}


def states_of(segment: Tensor, width: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys and values (B,S,heads,D), parts of one tensor as layers have them."""
    generator = torch.Generator().manual_seed(1)
    whole = torch.randn(*segment.shape, 3, HEADS, width, dtype=torch.float64, generator=generator)
    return [part.requires_grad_() for part in whole.to(dtype).unbind(2)]


def exact(states: list[Tensor], layout: Layout) -> Tensor:
    """Torch's attention in double precision under the mask (B,1,S,S)."""
    query, key, value = (part.double().transpose(1, 2) for part in states)
    mask = layout.mask(torch.float64)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few positions make several chunks and several groups of heads."""
    monkeypatch.setattr(chunks, "_FEWEST", 2)
    monkeypatch.setattr(chunks, "_MOST", 4)
    monkeypatch.setattr(chunks, "_SCORES", 40)
    monkeypatch.setattr(chunks, "_TOGETHER", 3)


BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2**-7}
"""Of the norm of what is compared. In bf16 scores, weights and gradients are rounded, each by up to 2^-9 of itself."""


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("name", SEGMENTS)
def test_context_and_gradients_are_those_of_attention_under_masks(name: str, width: int, dtype: torch.dtype) -> None:
    segment = torch.tensor(SEGMENTS[name])
    layout, states = Layout.of(segment), states_of(segment, width, dtype)
    found = attend_in_chunks(*states, layout.stretches(dtype))
    wide = [part.detach().double().requires_grad_() for part in states]
    expected, real = exact(wide, layout), segment >= 0
    assert found.dtype == dtype
    weight = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(dtype)
    weight[~real] = 0
    mine = [found.where(real[..., None, None], 0), *torch.autograd.grad(found, states, weight)]
    theirs = [expected.where(real[..., None, None], 0), *torch.autograd.grad(expected, wide, weight.double())]
    for one, other in zip(mine, theirs, strict=True):
        assert one.dtype == dtype
        # Documents of one token have no gradient of queries and keys.
        assert float((one.double() - other).detach().norm()) <= BOUNDS[dtype] * float(1 + other.detach().norm())


def test_large_scores_give_no_infinities() -> None:
    segment = torch.zeros(1, 600, dtype=torch.int64)
    query, key, value = states_of(segment, 32, torch.bfloat16)
    found = attend_in_chunks(query * 100, key * 100, value, Layout.of(segment).stretches(torch.bfloat16))
    assert bool(found.isfinite().all())
    assert all(bool(part.isfinite().all()) for part in torch.autograd.grad(found.sum(), (query, key, value)))


@pytest.mark.usefixtures("small_chunks")
def test_gradients_are_those_of_finite_differences() -> None:
    segment = torch.tensor([[0] * 9 + [1, 2, 2], [-1, 3, 3] + [4] * 7 + [-1] * 2])
    stretches = Layout.of(segment).stretches(torch.float64)
    states = states_of(segment, 4, torch.float64)
    for share in (0.0, 0.4):

        def attended(*parts: Tensor, share: float = share) -> Tensor:
            torch.manual_seed(4)
            return attend_in_chunks(parts[0], parts[1], parts[2], stretches, share)

        assert torch.autograd.gradcheck(attended, tuple(states))


def test_packed_documents_have_the_context_of_each_alone() -> None:
    segment = torch.tensor(SEGMENTS["long and short documents"])
    states = states_of(segment, 32, torch.float64)
    found = attend_in_chunks(*states, Layout.of(segment).stretches(torch.float64))
    for name in range(7):
        place = segment == name
        alone = [part[place][None] for part in states]
        layout = Layout.of(torch.zeros(1, int(place.sum()), dtype=torch.int64))
        by_itself = attend_in_chunks(*alone, layout.stretches(torch.float64))
        torch.testing.assert_close(found[place][None], by_itself, atol=1e-10, rtol=1e-10)


def test_padding_is_neither_read_nor_written() -> None:
    segment = torch.tensor(SEGMENTS["padding"])
    states, padding = states_of(segment, 32, torch.float64), segment < 0
    clean = attend_in_chunks(*states, Layout.of(segment).stretches(torch.float64))
    spoiled = [part.detach().clone() for part in states]
    for part in spoiled:
        part[padding] = torch.nan
        part.requires_grad_()
    found = attend_in_chunks(*spoiled, Layout.of(segment).stretches(torch.float64))
    assert torch.equal(found, clean)
    assert bool((found[padding] == 0).all())
    for gradient in torch.autograd.grad(found.square().sum(), spoiled):
        assert bool(gradient.isfinite().all())
        assert bool((gradient[padding] == 0).all())


def test_short_neighbours_share_a_stretch_and_long_documents_have_their_own() -> None:
    segment = torch.tensor(
        [row((0, 100), (1, 20), (2, 8), (3, 1), (4, 171)), row((5, 50), (-1, 10), (6, 20), (7, 220))]
    )
    layout = Layout.of(segment)
    found = stretches_of(segment, layout.boundaries, torch.float32)
    assert [(one.row, one.first, one.end, one.mask is not None) for one in found] == [
        (0, 0, 128, True),
        (0, 128, 129, False),
        (0, 129, 300, False),
        (1, 0, 50, False),
        (1, 60, 80, False),
        (1, 80, 300, False),
    ]
    assert found[0].mask is not None
    assert torch.equal(found[0].mask == 0, segment[0, :128, None] == segment[0, :128])
    assert layout.stretches(torch.float32) is layout.stretches(torch.float32)


class Softmaxes(TorchDispatchMode):
    """Weights that are formed in all, and the most at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ == "_softmax":
            self.counts.append(result.numel())
        return result


def test_weights_are_formed_inside_documents_only_and_a_chunk_at_a_time() -> None:
    segment = torch.tensor([row((0, 1100), (1, 400), (2, 548))])
    stretches, states = Layout.of(segment).stretches(torch.bfloat16), states_of(segment, 32, torch.bfloat16)
    with Softmaxes() as made:
        found = attend_in_chunks(*states, stretches)
    once = HEADS * (1100**2 + 400**2 + 548**2)
    assert sum(made.counts) == once
    assert max(made.counts) <= chunks._SCORES
    with made:
        found.sum().backward()
    assert sum(made.counts) == 2 * once


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_nothing_is_kept_for_the_backward_pass_but_queries_keys_and_values(share: float) -> None:
    segment = torch.zeros(1, 600, dtype=torch.int64)
    states, kept = states_of(segment, 32, torch.float32), []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part.data_ptr()) or part, lambda part: part):
        attend_in_chunks(*states, Layout.of(segment).stretches(torch.float32), share)
    assert sorted(kept) == sorted(part.data_ptr() for part in states)


@pytest.mark.usefixtures("small_chunks")
def test_weights_are_dropped_in_the_share_and_the_same_ones_in_the_backward_pass() -> None:
    """Values that are the unit matrix show the weights that were used."""
    length, share = 30, 0.25
    segment = torch.zeros(1, length, dtype=torch.int64)
    stretches = Layout.of(segment).stretches(torch.float64)
    query, key, value = states_of(segment, length, torch.float64)
    unit = torch.eye(length, dtype=torch.float64)[None, :, None].expand_as(value)

    def attended(values: Tensor, dropped: float) -> Tensor:
        torch.manual_seed(6)
        return attend_in_chunks(query, key, values, stretches, dropped)

    whole, used = (attended(unit, dropped).detach().transpose(1, 2) for dropped in (0.0, share))
    factors = (used != 0).double() / (1 - share)
    torch.testing.assert_close(used, whole * factors)
    dropped = (used == 0).double().mean((0, 2, 3))
    assert bool(((dropped - share).abs() < 5 * (share * (1 - share) / length**2) ** 0.5).all())
    # Chunks of 4 queries and heads differ.
    assert not torch.equal(factors[:, :, :4], factors[:, :, 4:8])
    assert not torch.equal(factors[:, 0], factors[:, 1])

    found = attended(value, share)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * length**-0.5
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1) * factors, value)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    weight = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for one, other in zip(
        torch.autograd.grad(found, (query, key, value), weight),
        torch.autograd.grad(expected, (query, key, value), weight),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_without_dropout_no_random_number_is_drawn() -> None:
    segment = torch.zeros(1, 20, dtype=torch.int64)
    states, before = states_of(segment, 32, torch.float32), torch.get_rng_state()
    attend_in_chunks(*states, Layout.of(segment).stretches(torch.float32))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """Whether rows of a length and precision are attended to by chunks, on a processor with or without instructions."""
    calls: list[int] = []

    def attend(query: Tensor, key: Tensor, value: Tensor, stretches: list[Stretch], share: float) -> Tensor:
        calls.append(len(stretches))
        return attend_in_chunks(query, key, value, stretches, share)

    monkeypatch.setattr(tokens, "attend_in_chunks", attend)

    def choose(
        length: int, dtype: torch.dtype, instructions: bool, window: int | None = None, share: float = 0
    ) -> bool:
        monkeypatch.setattr(dot_product, "_has_products", lambda one: instructions and one == torch.bfloat16)
        segment = torch.arange(length)[None] // (length - 10)
        states, before = states_of(segment, 8, dtype), len(calls)
        layout = Layout.of(segment)
        found = Rows(layout).attend(*states, window, share)
        if share == 0 and window is None:
            error = (found.double() - exact(states, layout).flatten(2)).detach()
            assert float(error.norm()) < 2**-6 * float(found.detach().norm())
        return len(calls) > before

    return choose


def test_long_rows_in_bf16_go_by_chunks_where_the_processor_has_instructions(chosen: Callable[..., bool]) -> None:
    assert chosen(512, torch.bfloat16, True)
    assert chosen(700, torch.bfloat16, True, share=0.1)
    # A window that is wider than any document is none.
    assert chosen(700, torch.bfloat16, True, window=4000)
    assert not chosen(511, torch.bfloat16, True)
    assert not chosen(700, torch.bfloat16, False)
    assert not chosen(700, torch.float32, True)
    assert not chosen(700, torch.float16, True)
    assert not chosen(700, torch.bfloat16, True, window=64)
    assert not chosen(700, torch.bfloat16, True, window=600)
