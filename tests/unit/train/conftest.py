"""Small networks with no weight at its start, and batches of packed rows with padding."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from electra_scale.corruption.ahead import Ahead
from electra_scale.corruption.corruption import Clock, Corruption
from electra_scale.corruption.generator import GeneratorCorruption
from electra_scale.corruption.sampler import Masked
from electra_scale.data.batch import Batch
from electra_scale.data.loader import Loader
from electra_scale.data.rows import PackedShard, SpecialTokens
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.recipe.corruption import GeneratorSettings, SamplingHeadSettings
from electra_scale.recipe.data import DataConfig
from electra_scale.recipe.model import EncoderSize, ModelConfig, ModernSettings
from electra_scale.recipe.phases import Phase
from electra_scale.recipe.task import ReplacedTokensSettings
from electra_scale.tasks.module import GlobalCounts, PretrainModule
from electra_scale.tasks.replaced_tokens import ReplacedTokens

V, S = 24, 14
SPECIAL = SpecialTokens(pad=0, cls=2, sep=3, mask=4)
MODEL = ModelConfig(
    vocab_size=V,
    embedding=12,
    discriminator=EncoderSize(2, 16, 24, 4),
    generator=EncoderSize(2, 8, 16, 2),
    max_positions=S,
    dropout=0.0,
    attention_dropout=0.0,
)
MODELS = {"bert": MODEL, "modern": replace(MODEL, architecture=ModernSettings(window=4))}
every_architecture = pytest.mark.parametrize("architecture", MODELS)

SAMPLERS: dict[str, GeneratorSettings] = {
    "electra": GeneratorSettings(sampler="electra"),
    "temperature": GeneratorSettings(sampler="temperature", weight_power=1.0),
    **{
        f"{name} {form} {'own' if own else 'context'}": GeneratorSettings(
            sampler=name,
            head=SamplingHeadSettings(width=6, own_token=own, form=form),
        )
        for name, form, own in (
            ("hp_loss", "rms", True),
            ("hp_loss", "mean", True),
            ("hp_loss", "rms", False),
            ("hp_loss", "mean", False),
            ("hp_dist", "rms", True),
            ("hp_dist", "rms", False),
        )
    },
}
SAMPLERS["two_scalars"] = GeneratorSettings(sampler="two_scalars")
SAMPLERS["hp_loss gradient shuffled"] = GeneratorSettings(
    sampler="hp_loss", head=SamplingHeadSettings(width=6, target="gradient", shuffled=True)
)
SAMPLERS["partial hp_dist"] = GeneratorSettings(
    sampler="hp_dist", weight_power=0.5, allow_original=False, head=SamplingHeadSettings(width=6, own_token=False)
)
LEARNING = [name for name in SAMPLERS if name.startswith("hp")]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_module(
    settings: GeneratorSettings,
    phase: Phase = "joint",
    rough: bool = True,
    discriminator_weight: float = 50.0,
    architecture: str = "bert",
    **changes: Any,
) -> PretrainModule:
    """A module whose weights depend on the sampler's parts in nothing but the sampler; ``changes`` of its settings."""
    model = MODELS[architecture]
    electra = Electra(model, seed=1)
    corruptor = GeneratorCorruption(replace(settings, **changes), model, SPECIAL, seed=1)
    task = ReplacedTokens(ReplacedTokensSettings(discriminator_weight=discriminator_weight), model, SPECIAL)
    module = PretrainModule(electra, corruptor, task, phase)
    roughen(electra, 2)
    if rough:
        roughen(corruptor.sampler, 3)
    return module


def clock_of(module: PretrainModule, joint_step: int = 0) -> Clock:
    return Clock(joint_step, 0, module.phase, joint_step)


def contribution(
    module: PretrainModule,
    batch: Batch,
    counts: GlobalCounts,
    scale: float = 1.0,
    detailed: bool = True,
    ahead: Ahead | None = None,
    joint_step: int = 0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a micro-batch, and its statistics by name."""
    clock = clock_of(module, joint_step)
    loss, statistics = module(batch, Layout.of(batch.segment), clock, counts, scale, detailed, ahead)
    return loss, {one.name: one.value for one in statistics}


def generator_of(module: PretrainModule) -> GeneratorCorruption:
    assert isinstance(module.corruptor, GeneratorCorruption)
    return module.corruptor


def masked_positions(module: PretrainModule, batch: Batch) -> Masked:
    """What the generator says about the masked positions."""
    return generator_of(module).masked_positions(module.electra, batch, Layout.of(batch.segment))


def look_ahead(module: PretrainModule, batch: Batch, joint_step: int = 0) -> Ahead:
    clock = clock_of(module, joint_step)
    return generator_of(module).look_ahead(module.electra, batch, Layout.of(batch.segment), clock)


def discriminate(module: PretrainModule, ids: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and loss (B, S) for corrupted ids."""
    assert isinstance(module.task, ReplacedTokens)
    hidden = module.electra.discriminator_hidden(ids, Layout.of(batch.segment))
    corruption = Corruption(ids, ids != batch.ids, torch.ones_like(ids, dtype=torch.float32), batch.masked)
    return module.task.detect(module.electra, hidden, corruption)


def roughen(part: torch.nn.Module, seed: int) -> None:
    """Move every parameter off its start, so that no zero hides a path."""
    generator = random(seed)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def make_loader(
    rows: int, global_batch: int = 8, sources: tuple[str, ...] = ("made up",), spread: bool = False
) -> Loader:
    """A loader over made-up documents, as many of each source; it has at least so many rows of each."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, 2 * S, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = random.integers(5, V, offsets[-1]).astype(np.uint16)

    config = DataConfig(
        sequence_length=S, packing="stream", packing_window=1, mask_token_share=0.85, streams=1, shuffle_window=8
    )
    shard = PackedShard(ids, offsets, SPECIAL, config)
    # The shards of other sources have other tokens.
    shards = [shard, *(PackedShard((ids + n) % (V - 5) + 5, offsets, SPECIAL, config) for n in range(1, len(sources)))]
    split: Any = SimpleNamespace(
        store=SimpleNamespace(manifest=SimpleNamespace(fingerprint="numbers"), cache=None),
        rows=np.array([shard.rows for shard in shards]),
        sources=list(sources),
        special=SPECIAL,
        config=config,
        open=lambda number: shards[number],
        rows_were_read=lambda _: None,
    )
    return Loader(split, seed=4, global_batch=global_batch, shuffle=False, spread=spread)


def make_batch(first: int = 0, count: int = 8, mask_share: float = 0.3) -> Batch:
    """Rows ``first`` to ``first + count`` of the one global batch of these tests, two of them cut short."""
    batch = make_loader(8).batch(0, first, count, mask_share)
    for row in {2, 5} & set(range(first, first + count)):
        place = row - first
        batch.segment[place, 9:] = -1
        batch.ids[place, 9:] = SPECIAL.pad
    kept = batch.segment.flatten()[batch.masked] >= 0
    return Batch(batch.ids, batch.segment, batch.masked[kept], batch.shown_as_mask[kept], batch.uniform[kept])


def counts_of(*batches: Batch) -> GlobalCounts:
    masked = sum(len(batch.masked) for batch in batches)
    tokens = sum(int((batch.segment >= 0).sum()) for batch in batches)
    return {"masked": torch.tensor(float(masked)), "tokens": torch.tensor(float(tokens))}


def gradients(
    module: PretrainModule, batches: list[Batch], counts: GlobalCounts, joint_step: int = 0
) -> dict[str, Tensor]:
    """Gradients that the batches leave together; zeros where a parameter got none."""
    module.zero_grad()
    for batch in batches:
        loss, _ = contribution(module, batch, counts, detailed=False, joint_step=joint_step)
        loss.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in module.named_parameters()
    }
