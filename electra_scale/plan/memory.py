"""The memory that a recipe needs on a device, by part. Formulas: docs/plan.md; tests/unit/plan measures them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from electra_scale.corruption.corruption import cost_of
from electra_scale.model.architectures.architecture import architecture_of
from electra_scale.model.cost import parameter_counts
from electra_scale.model.varlen import FLASH
from electra_scale.recipe.deepspeed_json import LARGEST_BUCKET, bucket_of
from electra_scale.recipe.model import ModelConfig
from electra_scale.recipe.recipe import Recipe

_DTYPES = {2: torch.bfloat16, 4: torch.float32}


@dataclass(frozen=True)
class Memory:
    """Bytes on a device in the joint phase.

    ``weights`` and ``optimizer`` are held all the time; ``gradients``, ``activations`` and ``vocabulary_pass`` are what
    is held when a backward pass starts. ``moments`` are the totals at those times of a step that may be its peak.
    """

    weights: float
    optimizer: float
    gradients: float
    activations: float
    vocabulary_pass: float
    moments: dict[str, float]

    @property
    def total(self) -> float:
        """Bytes at the peak of a step."""
        return max(self.moments.values())

    @property
    def moment(self) -> str:
        """The time of a step at which its memory peaks, a key of ``moments``."""
        return max(self.moments, key=lambda name: self.moments[name])


def device_memory(
    recipe: Recipe,
    model: ModelConfig,
    deepspeed_json: dict[str, Any],
    ranks: int,
    micro_batch: int,
    accumulation: int,
    device_type: str = "cuda",
) -> Memory:
    """Memory of a device of torch's ``device_type``, by part, for a micro-batch; ZeRO divides it by ``ranks``."""
    zero = deepspeed_json.get("zero_optimization", {})
    half = bool(deepspeed_json.get("bf16", {}).get("enabled"))
    element = 2 if half else 4
    counts, detects = parameter_counts(model, recipe.corruption.uses_generator), recipe.task.detects
    parameters = counts.total if detects else counts.generator_phase
    # Masked prediction alone draws nothing.
    corruption = recipe.corruption if detects else replace(recipe.corruption, sampler="electra")
    architecture, cost = architecture_of(model), cost_of(corruption, model)
    head = cost.parameters
    tokens = micro_batch * recipe.data.sequence_length
    masked = round(tokens * recipe.data.mask_share)
    table = model.vocab_size * model.embedding
    part = parameters / ranks

    generator = 0.0
    if recipe.corruption.uses_generator:
        generator = tokens * architecture.encoder_bytes(model.generator, element, wanted=masked / tokens)
    masks = tokens * _row_attention_bytes(model, recipe.data.sequence_length, element, device_type)
    discriminator = tokens * architecture.encoder_bytes(model.discriminator, element)
    discriminator += tokens * architecture.head_bytes("discriminator", element)
    discriminator *= detects
    at_masked = cost.masked_bytes(masked, element)
    running = cost.running_bytes(masked, element, device_type)
    kept = cost.kept_bytes(masked, element) + cost.backward_bytes(masked, element, device_type)

    bucket_size = zero.get("reduce_bucket_size", LARGEST_BUCKET)
    bucket_size = bucket_of(parameters + head) if bucket_size == "auto" else int(bucket_size)
    contiguous = bool(zero.get("contiguous_gradients", True))
    bucket = float(bucket_size * element * (2 if zero.get("overlap_comm") else 1)) if contiguous else 0.0
    accumulates_exactly = half and deepspeed_json.get("data_types", {}).get("grad_accum_dtype") == "fp32"
    # With a single precision DeepSpeed keeps whole parameters' gradients: a part of the table means all of it.
    own = 4 * part if accumulates_exactly else element * max(part, table if ranks > 1 else 0)
    if zero.get("stage") == 1:
        own = float((4 if accumulates_exactly else element) * parameters)
    copied = float(element * min(bucket_size, parameters)) if ranks > 1 else 0.0
    # The norm takes a copy of each gradient in float64; sums in float32 are in one piece already.
    scratch = max(8 * min(table, part), 0 if accumulates_exactly else 4 * part)
    if not deepspeed_json.get("optimizer", {}).get("params", {}).get("fused"):
        # The whole gradient of this rank's part, and AdamW's intermediate results.
        scratch = 8 * part

    # The head is in float32 whatever the networks are.
    # A discriminator that is not trained is there all the same.
    weights = float(counts.total * element + head * 4)
    # float32 weights and two moments: this rank's part; for the head all of them, and its whole gradient.
    optimizer = 12 * part + 16 * head
    always = weights + optimizer
    # A bucket that holds the whole gradient is reduced only when the backward pass is over.
    before = own if accumulation > 1 or parameters > bucket_size else 0.0
    gradients = bucket + before + head * 4
    # The gradient of a layer's inner values, and what is made again of a layer that kept its input only.
    in_backward = float(tokens * model.discriminator.ffn * element)
    if model.activation_checkpointing:
        in_backward += tokens * architecture.layer_bytes(model.discriminator if detects else model.generator, element)
    activations = masks + generator + discriminator + at_masked
    moments = {
        "vocabulary pass": always + (own if accumulation > 1 else 0.0) + masks + generator + at_masked + kept + running,
        "start of backward": always + gradients + activations + kept + in_backward,
        # Both networks' gradients for the word embeddings exist before they are added.
        "gradient of the embeddings": always + gradients + masks + generator + at_masked + kept + 2 * element * table,
        "reduction": always + bucket + copied + own,
        "update": always + own + scratch,
    }
    return Memory(weights, optimizer, gradients, activations, kept, moments)


def _row_attention_bytes(model: ModelConfig, positions: int, element: int, device_type: str) -> float:
    """Per token; none where both networks attend to documents end to end (:mod:`electra_scale.model.varlen`), on any
    GPU that bf16 is for."""
    widths = [size.hidden // size.heads for size in (model.generator, model.discriminator)]
    if device_type == "cuda" and all(FLASH.allow(_DTYPES[element], width, model.attention_dropout) for width in widths):
        return 0.0
    return architecture_of(model).row_attention_bytes(positions, element)
