"""``electra-scale plan``: what a run needs, by arithmetic, before any machine is rented. Formulas: docs/plan.md."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from data_pipeline.errors import UserError
from electra_scale.config import Recipe, batch_split
from electra_scale.model.config import (
    EncoderSize,
    ModelConfig,
    discriminator_flops,
    generator_flops,
    parameter_counts,
)
from electra_scale.monitor.hardware import DEVICES, DeviceSheet
from electra_scale.replacement.build import build_sampler
from electra_scale.replacement.vocabulary import MEMORY

_REDUCE_BUCKET = 500_000_000
"""Elements of a bucket for reduce-scatter and of one for all-gather, where the DeepSpeed JSON names none."""

_RESERVED = 0.1
"""Share of a device's memory left to the driver, NCCL and fragmentation: an assumption."""


@dataclass(frozen=True)
class Cluster:
    """Machines to plan for: ``nodes`` with ``per_node`` devices of the kind ``gpu``, a key of DEVICES."""

    nodes: int
    per_node: int
    gpu: str

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.per_node < 1:
            raise UserError(f"--nodes is {self.nodes} and --gpus-per-node {self.per_node}; both must be at least 1")
        if self.gpu not in DEVICES:
            raise UserError(f"--gpu {self.gpu} is not known; known: {', '.join(DEVICES)}")

    @property
    def ranks(self) -> int:
        return self.nodes * self.per_node

    @property
    def sheet(self) -> DeviceSheet:
        return DEVICES[self.gpu]


def head_parameters(recipe: Recipe, model: ModelConfig) -> int:
    """Parameters of the recipe's sampler, counted on the module itself."""
    with torch.random.fork_rng(devices=[]):
        sampler = build_sampler(recipe.objective, model, seed=0)
    return sum(parameter.numel() for parameter in sampler.parameters())


def encoder_activation_bytes(size: EncoderSize, config: ModelConfig, element: int) -> float:
    """Bytes per token that one encoder keeps for backward: ``layers (8 H + 2 F) + 2 E + H [E != H]`` elements.

    Per layer: input, Q, K, V, context, two LayerNorm inputs and one output of H each; the feed-forward's inner values
    before and after GELU. Besides: a normaliser per head and four LayerNorm moments in float32, a byte per dropped
    element. An attention that is fused is assumed; one that is not keeps heads x S probabilities as well.
    """
    kept = size.layers * (8 * size.hidden + 2 * size.ffn) + 2 * config.embedding + size.hidden
    exact = 4 * (size.layers * (size.heads + 4) + 2)
    dropped = (2 * size.layers * size.hidden + config.embedding) if config.dropout > 0 else 0
    return float(kept * element + exact + dropped)


def memory_parts(
    recipe: Recipe, model: ModelConfig, deepspeed_json: dict[str, Any], ranks: int, micro_batch: int
) -> dict[str, float]:
    """Bytes of a device by part, at the end of a forward pass of the joint phase."""
    half = bool(deepspeed_json.get("bf16", {}).get("enabled"))
    element = 2 if half else 4
    zero = deepspeed_json.get("zero_optimization", {})
    parameters = parameter_counts(model).total
    head = head_parameters(recipe, model)
    tokens = micro_batch * recipe.data.sequence_length
    masked = math.ceil(tokens * recipe.data.mask_share)
    per_token = sum(encoder_activation_bytes(size, model, element) for size in (model.generator, model.discriminator))
    reduce = min(parameters, int(zero.get("reduce_bucket_size", _REDUCE_BUCKET)))
    gather = min(parameters, int(zero.get("allgather_bucket_size", _REDUCE_BUCKET)))
    return {
        "weights": float(parameters * element + head * element),
        # The whole gradient in the run's precision while backward runs, and this rank's part in float32.
        "gradients": parameters * element + 4 * parameters / ranks + head * element,
        # float32 weights and two moments: this rank's part; of the head all.
        "optimizer": 12 * parameters / ranks + 12 * head,
        "activations": tokens * per_token,
        "vocabulary_pass": float(
            min(MEMORY, masked * model.vocab_size * 8)
            + 4 * model.vocab_size * (model.embedding + 1)
            + masked * (3 * model.embedding + model.generator.hidden) * element
        ),
        "communication": float((reduce + gather) * element) if ranks > 1 else 0.0,
    }


def plan(
    recipe: Recipe,
    deepspeed_json: dict[str, Any],
    vocabulary: int,
    cluster: Cluster,
    efficiency: float,
    price: float | None = None,
    bytes_per_id: float = 2.0,
) -> dict[str, Any]:
    """All figures of a run, by name; bytes, seconds and FLOPs unless a name says otherwise.

    Args:
        recipe: the run.
        deepspeed_json: content of its DeepSpeed JSON.
        vocabulary: V.
        cluster: the machines.
        efficiency: assumed share of the device's peak that a step reaches.
        price: of a device hour, in any currency; without it no cost is given.
        bytes_per_id: of a token id in the store.

    Raises:
        UserError: an efficiency outside (0, 1], a negative price, ranks that can't share the global batch.
    """
    if not 0 < efficiency <= 1:
        raise UserError(f"--efficiency is {efficiency}; it must be above 0 and at most 1")
    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"--price is {price}; it must be 0 or more")
    model = recipe.model.resolve(vocabulary)
    counts = parameter_counts(model)
    micro, accumulation = batch_split(recipe.batch.global_batch, cluster.ranks, recipe.batch.most_per_device)
    positions = recipe.data.sequence_length
    warmup, joint = recipe.generator_warmup, recipe.schedule.steps
    generator = 3 * generator_flops(model, positions, recipe.data.mask_share)
    discriminator = 3 * discriminator_flops(model, positions)
    step_tokens = recipe.batch.global_batch * positions
    total_flops = step_tokens * (
        joint * (generator + discriminator) + warmup.steps * 3 * generator_flops(model, positions, warmup.mask_share)
    )
    memory = memory_parts(recipe, model, deepspeed_json, cluster.ranks, micro)
    need, room = sum(memory.values()), cluster.sheet.memory_gb * 1e9 * (1 - _RESERVED)
    element = 2 if deepspeed_json.get("bf16", {}).get("enabled") else 4
    others = (cluster.ranks - 1) / cluster.ranks
    # A data sheet's peak is for 16 bit; products in float32 run on other units, at a rate of their own.
    peak = (cluster.sheet.bf16_tflops if element == 2 else cluster.sheet.fp32_tflops) * 1e12
    seconds = total_flops / (cluster.ranks * peak * efficiency)
    tokens = step_tokens * recipe.total_steps
    warnings = []
    if need > room:
        what = "lower batch.most_per_device" if micro > 1 else "shorten data.sequence_length, or take more devices"
        warnings.append(
            f"memory: {need / 1e9:.1f} GB needed, {room / 1e9:.1f} GB of a {cluster.gpu} usable; "
            f"{what} or a device with more memory"
        )
    return {
        "parameters": asdict(counts) | {"total": counts.total, "sampling_head": head_parameters(recipe, model)},
        "flops_per_token": {"generator": generator, "discriminator": discriminator, "total": generator + discriminator},
        "tokens": {"step": step_tokens, "run": tokens},
        "batch": {"ranks": cluster.ranks, "micro": micro, "accumulation": accumulation},
        "memory": memory | {"total": need, "usable": room},
        "streamed_per_node": tokens * bytes_per_id / cluster.nodes,
        "communication_per_step": {
            "reduce_scatter": accumulation * counts.total * element * others,
            "all_gather": counts.total * element * others,
        },
        "assumed": {
            "efficiency": efficiency,
            "peak_flops": peak,
            "vocabulary": vocabulary,
            "source": cluster.sheet.source,
        },
        "total_flops": total_flops,
        "seconds": seconds,
        "device_hours": seconds / 3600 * cluster.ranks,
        "cost": None if price is None else seconds / 3600 * cluster.ranks * price,
        "warnings": warnings,
    }


def plan_text(found: dict[str, Any]) -> str:
    """The figures of :func:`plan` for people."""
    batch, tokens, flops = found["batch"], found["tokens"], found["flops_per_token"]
    memory, moved, assumed = found["memory"], found["communication_per_step"], found["assumed"]
    lines = ["parameters"]
    lines += [f"  {name.replace('_', ' '):<20}{count:>16,}" for name, count in found["parameters"].items()]
    lines += [
        f"training FLOPs per token  {flops['total']:.4g} = 3 x forward (generator {flops['generator']:.4g}, "
        f"discriminator {flops['discriminator']:.4g})",
        "  forward of an encoder: 2 E H [E != H] + layers (8 H^2 + 4 H F + 4 S H); heads in docs/plan.md",
        f"tokens                    {tokens['step']:,} a step, {tokens['run']:,} in all",
        f"batch                     {batch['micro']} a device x {batch['accumulation']} accumulated x "
        f"{batch['ranks']} ranks",
        "memory of a device, GB",
    ]
    lines += [f"  {name.replace('_', ' '):<20}{size / 1e9:>16.3f}" for name, size in memory.items()]
    lines += [
        f"streamed to each node     {found['streamed_per_node'] / 1e9:.3f} GB over the run",
        f"sent by a device a step   {moved['reduce_scatter'] / 1e9:.4f} GB reduce-scatter, "
        f"{moved['all_gather'] / 1e9:.4f} GB all-gather",
        f"time                      {found['seconds'] / 3600:.2f} h, {found['device_hours']:.2f} device hours; "
        f"assumed: {assumed['efficiency']:.0%} of {assumed['peak_flops'] / 1e12:g} TFLOP/s ({assumed['source']})",
    ]
    if found["cost"] is not None:
        lines.append(f"cost                      {found['cost']:,.2f}, on the same assumption")
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    return "\n".join(lines)
