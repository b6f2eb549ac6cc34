"""How many operations a step launches on a device, counted without one: each is a launch, which small ones wait for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from electra_scale.corruption import generator
from electra_scale.corruption.corruption import Clock
from electra_scale.corruption.vocabulary.tiles import ON_CPU, ON_DEVICE, Tiling
from electra_scale.corruption.vocabulary.vocabulary_pass import vocabulary_pass
from electra_scale.data.batch import Batch
from electra_scale.data.rows import SpecialTokens
from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.model import EncoderSize
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.tasks.module import build_module
from tests.support.fixtures.runs import ROOT

VOCABULARY, ROWS, POSITIONS = 5000, 2, 32


class Operations(TorchDispatchMode):
    """Counts operations that compute something: not views of what is there, not memory that nothing is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        inputs = {tensor.untyped_storage().data_ptr() for tensor in args if isinstance(tensor, Tensor)}
        is_view = isinstance(result, Tensor) and result.untyped_storage().data_ptr() in inputs
        is_view &= not function._schema.is_mutable
        several = isinstance(result, tuple | list) and function.overloadpacket.__name__ in ("unbind", "split")
        if not (is_view or several or "empty" in function.overloadpacket.__name__):
            self.count += 1
        return result


def step_of_base(sampler: str, tiling: Tiling, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Operations of one micro-batch forward and backward at base's depth, in all and of the pass over the vocabulary.

    Widths and the vocabulary are small: they change no count where a tile holds all tokens.
    """
    monkeypatch.chdir(ROOT)
    recipe, _ = parse_recipe(recipe_parser("test"), ["--config", "base", f"--corruption.sampler={sampler}"])
    recipe.model.embedding = 32
    for network in ("discriminator", "generator"):
        layers = getattr(recipe.model, network).layers
        setattr(recipe.model, network, EncoderSize(layers, 32, 32, 2))
    special = SpecialTokens(pad=0, cls=2, sep=3, mask=4)
    module = build_module(recipe, recipe.networks(VOCABULARY), special, "joint")
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(5, VOCABULARY, (ROWS, POSITIONS), generator=random)
    masked = torch.arange(0, ids.numel(), 6)
    segment = torch.arange(POSITIONS).ge(POSITIONS // 2).long().expand(ROWS, -1).contiguous()
    uniform = torch.rand(len(masked), generator=random, dtype=torch.float64)
    batch = Batch(ids, segment, masked, torch.ones(len(masked), dtype=torch.bool), uniform)
    counts = {"masked": torch.tensor(float(len(masked))), "tokens": torch.tensor(float(ids.numel()))}
    within = 0

    def observed(*arguments: Any, **options: Any) -> Any:
        nonlocal within
        before = operations.count
        found = vocabulary_pass(*arguments, **options, tiling=tiling)
        within += operations.count - before
        return found

    monkeypatch.setattr(generator, "vocabulary_pass", observed)
    layout = Layout.of(segment)
    with Operations() as operations:
        loss, _ = module(batch, layout, Clock(0, 0, "joint", 0), counts, 1.0, False, None)
        loss.backward()
    assert math.isfinite(float(loss.detach()))
    return operations.count, within


@pytest.mark.parametrize("sampler", ["electra", "hp_loss"])
def test_a_step_at_bases_depth_stays_within_its_launches(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_it, of_pass = step_of_base(sampler, ON_DEVICE, monkeypatch)
    assert of_pass <= 300
    assert all_of_it <= 2600


def test_a_processors_tiles_take_more_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    assert step_of_base("hp_loss", ON_CPU, monkeypatch)[1] > step_of_base("hp_loss", ON_DEVICE, monkeypatch)[1]
