"""The memory that a recipe needs on a device, by part. Formulas: docs/plan.md; tests/unit/plan measures them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from electra_scale.corruption.corruption import cost_of
from electra_scale.model.architectures.architecture import Network, architecture_of
from electra_scale.model.attention.varlen import FLASH
from electra_scale.model.cost import parameter_counts, reaches
from electra_scale.plan.gradients import gradients_of
from electra_scale.plan.trained import trained_counts
from electra_scale.recipe.model import EncoderSize, ModelConfig
from electra_scale.recipe.phases import Phase, PhasePlan, trained_parts
from electra_scale.recipe.recipe import Recipe

_DTYPES = {2: torch.bfloat16, 4: torch.float32}


@dataclass(frozen=True)
class Memory:
    """Bytes on a device in a phase.

    ``phase`` is its name. ``weights`` and ``optimizer`` are held all the time; ``gradients``, ``activations`` and
    ``vocabulary_pass`` are what is held when a backward pass starts. ``moments`` are the totals at those times of a
    step that may be its peak.
    """

    phase: Phase
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
    phase: PhasePlan,
    model: ModelConfig,
    deepspeed_json: dict[str, Any],
    ranks: int,
    micro_batch: int,
    accumulation: int,
    device_type: str = "cuda",
) -> Memory:
    """Memory of a device of torch's ``device_type`` in a phase, by part, for a micro-batch; ZeRO divides it by
    ``ranks``."""
    element = 2 if deepspeed_json.get("bf16", {}).get("enabled") else 4
    joint, with_generator = phase.name == "joint", recipe.corruption.uses_generator
    counts, training = parameter_counts(model, with_generator), trained_parts(recipe, phase.name)
    head = cost_of(recipe.corruption, model).parameters
    # Masked prediction alone draws nothing.
    corruption = recipe.corruption if joint else replace(recipe.corruption, sampler="electra")
    architecture, cost = architecture_of(model), cost_of(corruption, model, training)
    tokens = micro_batch * recipe.data.sequence_length
    masked = round(tokens * phase.mask_share)
    trained = trained_counts(recipe, phase.name, model)

    def encoder(network: Network, size: EncoderSize, wanted: float = 1.0) -> float:
        if not reaches(network, training):
            return 0.0
        learns, below = network in training, "embeddings" in training
        return tokens * architecture.encoder_bytes(size, element, wanted, learns, below)

    masks = tokens * _row_attention_bytes(model, recipe.data.sequence_length, element, device_type)
    generator = encoder("generator", model.generator, masked / tokens) if with_generator else 0.0
    discriminator = 0.0
    if joint:
        discriminator = encoder("discriminator", model.discriminator)
        learns = "discriminator_head" in training
        if learns or reaches("discriminator", training):
            discriminator += tokens * architecture.head_bytes("discriminator", element, learns)
    at_masked = cost.masked_bytes(masked, element)
    running = cost.running_bytes(masked, element, device_type)
    kept = cost.kept_bytes(masked, element) + cost.backward_bytes(masked, element, device_type)

    shared_parts = {name for name, part in training.items() if not part.replicated}
    table = model.vocab_size * model.embedding if "embeddings" in training else 0
    sizes = {"generator": model.generator, "discriminator": model.discriminator}
    encoders = [architecture.largest_parameter(size) for name, size in sizes.items() if name in shared_parts]
    largest = max(0, *encoders, table if "embeddings" in shared_parts else 0)
    sums = gradients_of(trained.shared, largest, counts.total + head, deepspeed_json, ranks, accumulation)

    # The head is in float32 whatever the networks are. What a phase does not train is there all the same.
    weights = float(counts.total * element + head * 4)
    # float32 weights and two moments: this rank's part; of what each rank keeps whole all, and its whole gradient.
    optimizer = 12 * trained.shared / ranks + 16 * (trained.replicated + trained.head) + sums.always
    always = weights + optimizer
    whole = float(trained.replicated * element + trained.head * 4)
    between = sums.between + (whole if accumulation > 1 else 0.0)
    gradients = sums.start + whole
    # The gradient of a layer's inner values, and what is made again of a layer that kept its input only.
    in_backward, deepest = 0.0, None
    if joint and reaches("discriminator", training):
        deepest = model.discriminator
    elif with_generator and reaches("generator", training):
        deepest = model.generator
    if deepest is not None:
        in_backward = float(tokens * deepest.ffn * element)
        if model.activation_checkpointing:
            in_backward += tokens * architecture.layer_bytes(deepest, element)
    activations = masks + generator + discriminator + at_masked
    moments = {
        "vocabulary pass": always + between + masks + generator + at_masked + kept + running,
        "start of backward": always + gradients + activations + kept + in_backward,
        "reduction": always + whole + sums.reduction,
        "update": always + whole + sums.update,
    }
    if table:
        # Both networks' gradients for the word embeddings exist before they are added.
        moments["gradient of the embeddings"] = (
            always + sums.late + whole + masks + generator + at_masked + kept + 2 * element * table
        )
    return Memory(phase.name, weights, optimizer, gradients, activations, kept, moments)


def _row_attention_bytes(model: ModelConfig, positions: int, element: int, device_type: str) -> float:
    """Per token; none where both networks attend to documents end to end, on any GPU that bf16 is for
    (:mod:`electra_scale.model.attention.varlen`)."""
    widths = [size.hidden // size.heads for size in (model.generator, model.discriminator)]
    if device_type == "cuda" and all(FLASH.allow(_DTYPES[element], width, model.attention_dropout) for width in widths):
        return 0.0
    return architecture_of(model).row_attention_bytes(positions, element)
