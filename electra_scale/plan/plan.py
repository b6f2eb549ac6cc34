"""What a run needs, worked out by arithmetic before any machine is rented. Formulas: docs/plan.md."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from data_pipeline.errors import UserError
from electra_scale.corruption.corruption import cost_of
from electra_scale.model.architectures.architecture import architecture_of
from electra_scale.model.cost import parameter_counts, recomputed_flops, training_flops
from electra_scale.monitor.hardware import DEVICES, DeviceSheet
from electra_scale.plan.exchange import exchange_of
from electra_scale.plan.memory import Memory, device_memory
from electra_scale.plan.trained import trained_counts
from electra_scale.recipe.batch import batch_split
from electra_scale.recipe.model import ModelConfig
from electra_scale.recipe.optimizer import PARTS
from electra_scale.recipe.phases import Phase, phases, trained_parts
from electra_scale.recipe.recipe import Recipe

_WARM_UP: Phase = "generator_warmup"

EFFICIENCY = 0.2
"""Share of the peak that computing is assumed to reach, between two published figures of ELECTRA-base on one A100."""

PUBLISHED = "NVIDIA's ELECTRA-base on one A100 reached about 23% at 128 positions and 18% at 512"

_RESERVED = 0.1
"""Share of a device's memory that is left to the driver, NCCL and fragmentation: an assumption."""

_NETWORK_GBS = 25.0
"""GB/s from a device to other nodes, in one direction: an assumption."""


@dataclass(frozen=True)
class Cluster:
    """Machines to plan for: ``nodes`` with ``per_node`` devices of the kind ``gpu``, a key of DEVICES.

    ``link_gbs`` is the rate from a device to another rank, in GB/s. None stands for the data sheet's rate in one node,
    and for an assumption across nodes.
    """

    nodes: int
    per_node: int
    gpu: str
    link_gbs: float | None = None

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.per_node < 1:
            raise UserError(f"--nodes is {self.nodes} and --gpus-per-node {self.per_node}; both must be at least 1")
        if self.gpu not in DEVICES:
            raise UserError(f"--gpu {self.gpu} is not known; known: {', '.join(DEVICES)}")
        if self.link_gbs is not None and not 0 < self.link_gbs < math.inf:
            raise UserError(f"--link is {self.link_gbs}; it must be above 0, in GB/s")

    @property
    def ranks(self) -> int:
        return self.nodes * self.per_node

    @property
    def sheet(self) -> DeviceSheet:
        return DEVICES[self.gpu]

    @property
    def link(self) -> tuple[float, str]:
        """GB/s between two ranks, and where the figure is from."""
        if self.link_gbs is not None:
            return self.link_gbs, "as given"
        if self.nodes == 1:
            return self.sheet.link_gbs, f"nominal, {self.sheet.link}"
        return min(_NETWORK_GBS, self.sheet.link_gbs), "an assumption, 200 Gbit/s for each device"


@dataclass(frozen=True)
class Tokens:
    """What a plan needs to know about a store: its vocabulary V, bytes of a token id, tokens of an epoch if known."""

    vocabulary: int
    bytes_per_id: float
    epoch: int | None = None


def plan(
    recipe: Recipe,
    deepspeed_json: dict[str, Any],
    tokens: Tokens,
    cluster: Cluster,
    efficiency: float = EFFICIENCY,
    price: float | None = None,
) -> dict[str, Any]:
    """All figures of a run, by name, in bytes, seconds and FLOPs unless a name says otherwise.

    Args:
        recipe: the run.
        deepspeed_json: content of its DeepSpeed JSON.
        tokens: the store.
        cluster: the machines.
        efficiency: assumed share of the device's peak that a step reaches while it computes.
        price: of a device hour, in any currency; None leaves the cost out.

    Raises:
        UserError: an efficiency outside (0, 1], a negative price, ranks that cannot share the global batch equally.
    """
    if not 0 < efficiency <= 1:
        raise UserError(f"--efficiency is {efficiency}; it must be above 0 and at most 1")
    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"--price is {price}; it must be 0 or more")
    model = recipe.networks(tokens.vocabulary)
    with_generator = recipe.corruption.uses_generator
    counts = parameter_counts(model, with_generator)
    if not recipe.task.detects:
        counts = replace(counts, discriminator=0, discriminator_head=0)
    micro, accumulation = batch_split(recipe.batch.global_batch, cluster.ranks, recipe.batch.most_per_device)
    *_, last = phases(recipe)
    trained = trained_parts(recipe, last.name)
    flops = _flops(recipe, model, micro)
    step_tokens = recipe.batch.global_batch * recipe.data.sequence_length
    run_tokens = step_tokens * recipe.total_steps
    element = 2 if deepspeed_json.get("bf16", {}).get("enabled") else 4
    # The peak is for 16 bit; float32 products run on other units of the device, which have a peak of their own.
    peak = (cluster.sheet.bf16_tflops if element == 2 else cluster.sheet.fp32_tflops) * 1e12
    moved, in_warmup = (
        _communication(recipe, name, model, deepspeed_json, accumulation, cluster) for name in (last.name, _WARM_UP)
    )
    computing = step_tokens / (cluster.ranks * peak * efficiency)
    # Added up, because the shipped DeepSpeed JSONs do not overlap computing and communication.
    again = _recomputed(recipe, model)
    step_seconds = computing * (flops["total"] + again["joint"]) + moved["seconds"]
    warmup_seconds = computing * (flops["generator_warmup"] + again["generator_warmup"]) + in_warmup["seconds"]
    steps, warmup_steps = recipe.schedule.steps, recipe.generator_warmup.steps
    seconds = steps * step_seconds + warmup_steps * warmup_seconds
    return {
        "parameters": asdict(counts)
        | {"total": counts.total, "sampling_head": cost_of(recipe.corruption, model).parameters},
        "not_trained": [name for name in PARTS if name not in trained and _has(name, recipe)],
        "flops_per_token": flops,
        "recomputed_flops_per_token": again,
        "flops_formulas": list(architecture_of(model).flops_formulas),
        "tokens": {"step": step_tokens, "run": run_tokens, "epoch": tokens.epoch},
        "batch": {"ranks": cluster.ranks, "micro": micro, "accumulation": accumulation},
        "memory": _memory(recipe, model, deepspeed_json, cluster, micro, accumulation),
        "streamed_per_node": {
            "run": run_tokens * tokens.bytes_per_id / cluster.nodes,
            "epoch": None if tokens.epoch is None else tokens.epoch * tokens.bytes_per_id / cluster.nodes,
            "second": step_tokens / step_seconds * tokens.bytes_per_id / cluster.nodes,
        },
        "communication_per_step": moved | {"link": cluster.link[1], "share_of_step": moved["seconds"] / step_seconds},
        "assumed": {
            "efficiency": efficiency,
            "peak_flops": peak,
            "vocabulary": tokens.vocabulary,
            "gpu": cluster.gpu,
            "price": price,
        },
        "step_seconds": step_seconds,
        "mfu": step_tokens * flops["total"] / (cluster.ranks * peak * step_seconds),
        "tokens_per_second": step_tokens / step_seconds,
        "seconds": seconds,
        "device_hours": seconds / 3600 * cluster.ranks,
        "cost": None if price is None else seconds / 3600 * cluster.ranks * price,
    }


def _has(part: str, recipe: Recipe) -> bool:
    """Whether the last phase runs a part, trained or not."""
    if part.startswith("discriminator"):
        return bool(recipe.task.detects)
    if part == "sampler":
        return bool(recipe.task.detects and recipe.corruption.learns)
    return part == "embeddings" or bool(recipe.corruption.uses_generator)


def _flops(recipe: Recipe, model: ModelConfig, micro: int) -> dict[str, float]:
    """Training FLOPs per token, as speed/mfu counts them, and separately those of the sampling head."""
    positions, share = recipe.data.sequence_length, recipe.data.mask_share
    with_generator, joint = recipe.corruption.uses_generator, recipe.task.detects
    trained, in_warmup = (trained_parts(recipe, name) for name in (phases(recipe)[-1].name, _WARM_UP))
    total = training_flops(model, positions, share, joint, with_generator, trained)
    discriminator = training_flops(model, positions, share, True, False, trained) if joint else 0.0
    masked = round(micro * positions * share)
    head = cost_of(recipe.corruption, model, trained).flops(masked) / (micro * positions) if joint else 0.0
    warmup_share = recipe.generator_warmup.mask_share
    return {
        "generator": total - discriminator,
        "discriminator": discriminator,
        "total": total,
        "sampling_head": head,
        "generator_warmup": training_flops(model, positions, warmup_share, False, with_generator, in_warmup),
    }


def _recomputed(recipe: Recipe, model: ModelConfig) -> dict[str, float]:
    """Training FLOPs per token that activation checkpointing adds, in both phases."""
    positions, with_generator = recipe.data.sequence_length, recipe.corruption.uses_generator
    trained, in_warmup = (trained_parts(recipe, name) for name in (phases(recipe)[-1].name, _WARM_UP))
    share, warmup_share = recipe.data.mask_share, recipe.generator_warmup.mask_share
    return {
        "joint": recomputed_flops(model, positions, share, recipe.task.detects, with_generator, trained),
        "generator_warmup": recomputed_flops(model, positions, warmup_share, False, with_generator, in_warmup),
    }


def _communication(
    recipe: Recipe,
    phase: Phase,
    model: ModelConfig,
    deepspeed_json: dict[str, Any],
    accumulation: int,
    cluster: Cluster,
) -> dict[str, float]:
    """Bytes that a device sends in a step of a phase, and the seconds that sending them takes.

    An all-reduce sends as much as a reduce-scatter and an all-gather.
    """
    exchanged = exchange_of(trained_counts(recipe, phase, model), deepspeed_json, accumulation)
    share = (cluster.ranks - 1) / cluster.ranks
    reduce, gather = 2 * exchanged.reduced * share, exchanged.gathered * share
    gigabytes, _ = cluster.link
    return {
        "reduce": reduce,
        "all_gather": gather,
        "link_gb_per_second": gigabytes,
        "seconds": (reduce + gather) / (gigabytes * 1e9),
    }


def _memory(
    recipe: Recipe,
    model: ModelConfig,
    deepspeed_json: dict[str, Any],
    cluster: Cluster,
    micro: int,
    accumulation: int,
) -> dict[str, Any]:
    """Of the phase that needs most."""
    parts = [phase for phase in phases(recipe) if phase.last > phase.first] or phases(recipe)

    usable = cluster.sheet.memory_gb * 1e9 * (1 - _RESERVED)
    share = micro * accumulation

    def needed(size: int) -> Memory:
        settings = model, deepspeed_json, cluster.ranks, size, share // size
        return max((device_memory(recipe, phase, *settings) for phase in parts), key=lambda found: found.total)

    fitting = [size for size in range(1, share + 1) if share % size == 0 and needed(size).total <= usable]
    found = needed(micro)
    return {
        "weights": found.weights,
        "optimizer": found.optimizer,
        "gradients": found.gradients,
        "activations": found.activations,
        "vocabulary_pass": found.vocabulary_pass,
        "most": found.total,
        "most_at": found.moment,
        "phase": found.phase,
        "moments": found.moments,
        "usable": usable,
        "fits": found.total <= usable,
        "largest_micro_batch": max(fitting, default=None),
    }
