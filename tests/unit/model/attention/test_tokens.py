"""How positions see each other inside the documents of packed rows."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from electra_scale.model.attention import dot_product
from electra_scale.model.attention.layout import Layout, attention_mask
from electra_scale.model.attention.tokens import EndToEnd, Rows, tokens_of
from electra_scale.model.attention.varlen import Limits, SegmentAttention, segment_attention_of
from electra_scale.model.electra import Electra
from electra_scale.recipe.model import ModelConfig
from tests.support.instruments.varlen import IN_PLAIN_TORCH, varlen_attn
from tests.unit.model.conftest import VOCAB, rough_model

SEGMENT = torch.tensor([[0, 0, 0, 1, 1, 2, -1], [3] * 7])


class Made(TorchDispatchMode):
    """How many times each operation made a tensor of a shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.shape == self.shape:
            self.names.append(function.overloadpacket.__name__)
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_are_made_once_for_both_networks_in_the_precision_of_attention(
    either: ModelConfig, dtype: torch.dtype
) -> None:
    """Attention adds a mask in its own precision as it is, and would make any other one so in each call."""
    model, layout = rough_model(either).to(dtype), Layout.of(SEGMENT)
    ids = torch.randint(VOCAB, SEGMENT.shape, generator=torch.Generator().manual_seed(1))
    with Made((2, 1, 7, 7)) as made, torch.no_grad():
        model.generator_hidden(ids, layout)
        model.discriminator_hidden(ids, layout)
    kinds = 2 if either.architecture.kind == "modern" else 1
    assert made.names.count("zeros") == made.names.count("masked_fill_") == kinds
    assert set(made.names) <= {"unsqueeze", "bitwise_and_", "logical_not_", "masked_fill_", "zeros"}
    precision = dot_product.precision_of_attention(torch.empty(0, dtype=dtype), 7, 0.0)
    mask = layout.mask(precision)
    assert mask is not None
    assert mask.dtype == precision
    assert torch.equal(mask == 0, attention_mask(SEGMENT))
    assert torch.equal(mask == -torch.inf, ~attention_mask(SEGMENT))


SEGMENTS = {
    "rows full": [[0] * 4 + [1] * 6, [2] * 10],
    "one document a row": [[0] * 10, [1] * 10],
    "padding at the end": [[0] * 4 + [1] * 3 + [-1] * 3, [2] * 9 + [-1]],
    "padding in between": [[0] * 3 + [-1] * 2 + [1] * 5, [-1] * 4 + [2] * 6],
    "documents of one token": [[0, 1, 2, 3, 4, 5, 5, 6, -1, -1], list(range(10))],
    "a row of padding": [[-1] * 10, [0] * 7 + [1] * 3],
    "one token in all": [[-1] * 10, [-1] * 3 + [0] + [-1] * 6],
    "one row": [[0] * 3 + [1] * 7],
}


def passes(model: Electra, layout: Layout, ids: Tensor, only: Tensor | None) -> tuple[list[Tensor], dict[str, Tensor]]:
    """States of both networks where there is text, after all layers, and the gradients of a sum over them."""
    model.zero_grad()
    real = layout.segment >= 0
    depths = range(len(model.discriminator.layers) + 1)
    hidden = model.discriminator_hidden(ids, layout, depths)
    generated = model.generator_hidden(ids, layout, only)
    found = [hidden.last[real], *(states[real] for states in hidden.at.values())]
    found.append(generated[real] if only is None else generated)
    sum((states.sin().sum() for states in found), torch.zeros(())).backward()
    gradients = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    return [states.detach() for states in found], gradients


@pytest.mark.parametrize("name", SEGMENTS)
def test_documents_end_to_end_give_what_rows_under_masks_give(either: ModelConfig, name: str) -> None:
    """States after every layer and gradients, with windows and without; at some positions, and at all."""
    segment = torch.tensor(SEGMENTS[name])
    model = rough_model(either).double()
    ids = torch.randint(VOCAB, segment.shape, generator=torch.Generator().manual_seed(1))
    rows = Layout.of(segment)
    flat = rows.computed_by(IN_PLAIN_TORCH)
    real = (segment >= 0).flatten().nonzero().flatten()
    for only in (None, real[::3]):
        (states, gradients), (expected, of_rows) = (passes(model, layout, ids, only) for layout in (flat, rows))
        for one, other in zip(states, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
        assert gradients.keys() == of_rows.keys()
        for part, gradient in gradients.items():
            torch.testing.assert_close(gradient, of_rows[part], atol=1e-6, rtol=1e-6, msg=part)


@pytest.mark.parametrize("name", SEGMENTS)
def test_chunks_give_what_rows_under_masks_give(
    either: ModelConfig, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States after every layer and gradients, with windows and without."""
    segment = torch.tensor(SEGMENTS[name])
    model, layout = rough_model(either).double(), Layout.of(segment)
    ids = torch.randint(VOCAB, segment.shape, generator=torch.Generator().manual_seed(1))
    expected, of_rows = passes(model, layout, ids, None)
    made: list[int] = []

    def pays(states: Tensor, keys: int) -> bool:
        made.append(keys)
        return True

    monkeypatch.setattr(dot_product, "pays_in_chunks", pays)
    states, gradients = passes(model, layout, ids, None)
    assert set(made) == {segment.shape[1]}
    for one, other in zip(states, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    assert gradients.keys() == of_rows.keys()
    for part, gradient in gradients.items():
        torch.testing.assert_close(gradient, of_rows[part], atol=1e-6, rtol=1e-6, msg=part)


def test_padding_takes_no_part_in_any_product(either: ModelConfig) -> None:
    segment = torch.tensor(SEGMENTS["padding at the end"])
    model, layout = rough_model(either), Layout.of(segment).computed_by(IN_PLAIN_TORCH)
    ids = torch.randint(VOCAB, segment.shape, generator=torch.Generator().manual_seed(1))
    inputs: set[tuple[int, ...]] = set()
    for network in (model.generator, model.discriminator):
        assert network is not None
        for part in network.modules():
            if isinstance(part, torch.nn.Linear):
                part.register_forward_pre_hook(lambda _, given: inputs.add(tuple(given[0].shape[:-1])))
    hidden = model.discriminator_hidden(ids, layout).last
    model.generator_hidden(ids, layout)
    assert inputs == {(16,)}
    assert hidden[segment < 0].eq(0).all()


class Asked(TorchDispatchMode):
    """Operations whose result's size or value the host needs, for which a device would be waited for."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        booleans = name.startswith("index") and any(
            isinstance(one, Tensor) and one.dtype == torch.bool for one in (args[1] if len(args) > 1 else ()) or ()
        )
        if name in self.WAITS or booleans:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def test_nothing_on_the_way_asks_the_device(either: ModelConfig) -> None:
    """Sizes are integers of the host, made with the layout."""
    segment = torch.tensor(SEGMENTS["padding in between"])
    ids = torch.randint(VOCAB, segment.shape, generator=torch.Generator().manual_seed(1))
    only, model = torch.tensor([0, 2, 6, 15]), rough_model(either)
    # Its checks and its context do not belong to the way.
    quiet = SegmentAttention(lambda query, *_, **__: query * 1.0, Limits((torch.float32,), 1, 4096))
    for layout in (Layout.of(segment).computed_by(quiet), Layout.of(segment)):
        with Asked() as asked:
            loss = model.generator_hidden(ids, layout, only).sum() + model.discriminator_hidden(ids, layout).last.sum()
            loss.backward()
        assert asked.names == []


def test_what_a_device_cannot_compute_end_to_end_is_computed_under_masks(either: ModelConfig) -> None:
    config = replace(either, attention_dropout=0.1)
    layout = Layout.of(SEGMENT).computed_by(SegmentAttention(varlen_attn))
    usable = (layout, torch.bfloat16, 64, config, False)
    assert isinstance(tokens_of(*usable), EndToEnd)
    assert isinstance(tokens_of(layout, torch.float16, 128, config, False), EndToEnd)
    for unusable in (
        (layout, torch.float32, 64, config, False),
        (layout, torch.bfloat16, 12, config, False),
        (layout, torch.bfloat16, 256, config, False),
        # Attention dropout, in training.
        (layout, torch.bfloat16, 64, config, True),
        (layout.in_rows(), torch.bfloat16, 64, config, False),
        (Layout.of(SEGMENT), torch.bfloat16, 64, config, False),
    ):
        assert isinstance(tokens_of(*unusable), Rows)
    assert isinstance(tokens_of(layout, torch.bfloat16, 64, replace(config, attention_dropout=0.0), True), EndToEnd)


def test_the_reference_has_the_arguments_of_torchs_function() -> None:
    """So that what is tested here is called as the device's kernels are."""
    theirs = pytest.importorskip("torch.nn.attention.varlen").varlen_attn
    known, ours = (inspect.signature(function).parameters for function in (theirs, varlen_attn))
    assert list(known)[:7] == list(ours)[:7]
    assert all(known[name].kind == parameter.kind for name, parameter in ours.items())


def test_a_processor_has_no_attention_of_its_own() -> None:
    assert segment_attention_of(torch.device("cpu")) is None
    layout = Layout.of(SEGMENT)
    assert layout.to(torch.device("cpu")) is layout
    # A device that has none, and whose numbers nobody can ask for.
    moved = layout.to(torch.device("meta"))
    assert moved.attention is None
    assert moved.positions.is_meta
    assert moved.longest == layout.longest
