"""Real modules and batches of the shipped recipes, with a vocabulary and a micro-batch that tests can afford."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from electra_scale.corruption.corruption import Clock, build_corruptor
from electra_scale.data.batch import Batch
from electra_scale.data.rows import SpecialTokens
from electra_scale.model.attention import dot_product
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.optim.parts import parts_of
from electra_scale.recipe.model import ModelConfig
from electra_scale.recipe.optimizer import PartSettings
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.phases import Phase
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import GlobalCounts, PretrainModule
from electra_scale.tasks.task import build_task
from tests.support.fixtures.runs import ROOT

VOCABULARY, ROWS = 8192, 4
CLOCK = Clock(0, 0, "joint", 0)


def attend_as_a_device(patch: pytest.MonkeyPatch) -> None:
    """Attention is fused and in the precision of the states, as on a device, whose memory is what is planned."""
    patch.setattr(dot_product, "precision_of_attention", lambda states, keys, share: states.dtype)
    patch.setattr(dot_product, "has_own", lambda states: False)


@pytest.fixture(autouse=True)
def _attention_as_a_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    attend_as_a_device(monkeypatch)


def recipe_of(name: str) -> Recipe:
    """A shipped recipe whose attention has no dropout: with it, attention on a CPU is not fused as on a GPU."""
    recipe = parse_recipe(recipe_parser("test"), ["--config", str(ROOT / "recipes" / name)])[0]
    recipe.model.dropout = recipe.model.attention_dropout = 0.0
    return recipe


def trained_recipe_of(name: str) -> Recipe:
    """One all of whose parts learn, with a generator that is narrower than the discriminator, few masked positions and
    rows of 128 positions at most.

    A plan counts what is frozen as trained, and takes the masked share of all positions, [CLS] and [SEP] among them;
    docs/plan.md says what came out for two encoders of one size.
    """
    recipe = recipe_of(name)
    recipe.data.sequence_length = min(recipe.data.sequence_length, 128)
    if recipe.optimizer.generator_rate == 0:
        recipe.optimizer.generator_rate = 0.1
        recipe.data.mask_share = 0.3
        recipe.model.discriminator = replace(recipe.model.discriminator, layers=3)
        recipe.model.generator = replace(recipe.model.generator, hidden=64, ffn=256, heads=2)
    return recipe


FROZEN = {
    "as shipped": (0.0, {}),
    "generator rate 0, embeddings with their own": (0.0, {"embeddings": PartSettings(rate=0.1)}),
    "generator rate 0, discriminator's head frozen": (0.0, {"discriminator_head": PartSettings(frozen=True)}),
    "generator": (1.0, {"generator": PartSettings(frozen=True, rate=0.5)}),
    "generator's head and sampler": (1.0, {part: PartSettings(frozen=True) for part in ("generator_head", "sampler")}),
    "embeddings": (1.0, {"embeddings": PartSettings(frozen=True)}),
    "discriminator": (1.0, {"discriminator": PartSettings(frozen=True)}),
    "embeddings and discriminator": (1.0, {p: PartSettings(frozen=True) for p in ("embeddings", "discriminator")}),
}
"""By what does not train: the generator's rate, and settings of parts."""


def frozen_recipe_of(name: str, frozen: str) -> Recipe:
    """One with parts that do not train, a key of FROZEN."""
    recipe = trained_recipe_of(name)
    recipe.optimizer.generator_rate, recipe.optimizer.parts = FROZEN[frozen]
    return recipe


_ELECTRAS: dict[str, Electra] = {}


def _electra(model: ModelConfig) -> Electra:
    if repr(model) not in _ELECTRAS:
        _ELECTRAS[repr(model)] = Electra(model)
    return _ELECTRAS[repr(model)]


def module_of(recipe: Recipe, phase: Phase = "joint") -> PretrainModule:
    """The recipe's networks, which all tests share, without gradients."""
    model = recipe.networks(VOCABULARY)
    electra = _electra(model)
    electra.zero_grad()
    electra.requires_grad_()
    special = SpecialTokens(pad=0, cls=2, sep=3, mask=4)
    corruptor = build_corruptor(recipe.corruption, model, special, seed=0)
    module = PretrainModule(electra, corruptor, build_task(recipe.task, model, special), phase)
    # It leaves without gradient what does not train.
    parts_of(module, recipe.optimizer)
    return module


def batch_of(recipe: Recipe, rows: int = ROWS, share: float | None = None) -> Batch:
    """Rows of two segments each, so that attention needs its mask; evenly spaced positions are masked."""
    positions = recipe.data.sequence_length
    ids = torch.randint(5, VOCABULARY, (rows, positions), generator=torch.Generator().manual_seed(0))
    masked_positions = round(rows * positions * (share or recipe.data.mask_share))
    masked = torch.linspace(0, ids.numel() - 1, masked_positions, dtype=torch.float64).long()
    segment = (torch.arange(positions) >= positions // 2).long().expand(rows, -1).contiguous()
    uniform = torch.linspace(0.01, 0.99, len(masked), dtype=torch.float64)
    return Batch(ids, segment, masked, torch.ones(len(masked), dtype=torch.bool), uniform)


def counts_of(batch: Batch) -> GlobalCounts:
    return {"masked": torch.tensor(float(len(batch.masked))), "tokens": torch.tensor(float(batch.ids.numel()))}


def loss_of(module: PretrainModule, batch: Batch, detailed: bool = False) -> torch.Tensor:
    """Loss of a micro-batch."""
    clock = Clock(0, 0, module.phase, 0)
    loss: torch.Tensor = module(batch, Layout.of(batch.segment), clock, counts_of(batch), 1.0, detailed)[0]
    return loss
