"""The memory that a recipe needs on a device, by part. Formulas: docs/plan.md; tests/unit/plan measures them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from electra_scale.corruption.samplers.cost import sampler_parameters
from electra_scale.corruption.vocabulary.tiles import COLUMNS, ROWS
from electra_scale.corruption.vocabulary.vocabulary_pass import block_shape
from electra_scale.model.cost import parameter_counts
from electra_scale.recipe.model import EncoderSize, ModelConfig
from electra_scale.recipe.objective import ObjectiveConfig
from electra_scale.recipe.recipe import Recipe

_BUCKET = 500_000_000
"""Size of DeepSpeed's buffer for gradients, in numbers, if the JSON has no ``reduce_bucket_size``."""

_SMALL_TENSORS = 64
"""Bytes per token and network of tensors with one number a token: ids, positions, segments, logits, labels."""


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


def dropped_elements(size: EncoderSize) -> int:
    """Numbers per token for which dropout keeps a mask, after the two blocks of each layer."""
    return 2 * size.layers * size.hidden


def encoder_bytes(size: EncoderSize, config: ModelConfig, element: int, positions: int) -> float:
    """Bytes per token that autograd keeps of the shared embeddings and one encoder.

    ``b (layers (8 H + 2 F + S) + E + E [E != H])`` with b bytes a number: per layer its input, Q, K, V, context, two
    LayerNorm inputs and one output of H each, the feed-forward's inner values before and after GELU, and a row of the
    attention mask. In addition ``4 (layers (heads + 4) + 2)``: softmax normalisers, means and deviations. Attention is
    taken to be fused; otherwise heads x S probabilities are kept as well. Each dropped number has a mask of one byte.
    """
    hidden, embedding = size.hidden, config.embedding
    kept = size.layers * (8 * hidden + 2 * size.ffn + positions)
    kept += embedding + (embedding if embedding != hidden else 0)
    exact = 4 * (size.layers * (size.heads + 4) + 2)
    dropped = dropped_elements(size) + embedding if config.dropout > 0 else 0
    return float(kept * element + exact + dropped + _SMALL_TENSORS)


def masked_bytes(objective: ObjectiveConfig, model: ModelConfig, element: int) -> float:
    """Bytes per masked position of the generator's head, of the loss of the sampling head and of what they read."""
    kept = model.generator.hidden + 3 * model.embedding
    if objective.sampler in ("hp_loss", "hp_dist"):
        kept += 3 * objective.head.width
    if objective.sampler == "hp_loss":
        kept += model.embedding + objective.head.width
    return float(kept * element)


def pass_bytes(objective: ObjectiveConfig, model: ModelConfig, element: int, masked: int) -> tuple[float, float]:
    """Bytes that the pass over the vocabulary keeps until the backward pass, and those that it needs while it runs.

    Kept: gradients of word embeddings, bias and features in float32, ``4 (V (E + 1) + M E)``. While it runs: tiles of
    a block, one tile of scores relative to their maximum, and the sampling head's keys in float32.
    """
    vocabulary, embedding = model.vocab_size, model.embedding
    kept = 4.0 * (vocabulary * (embedding + 1) + masked * embedding)
    tilted = objective.sampler != "electra"
    tiles = -(-vocabulary // COLUMNS)
    rows, width = block_shape(masked, vocabulary, tiles * (2 if tilted else 1) * 4)
    running = 4.0 * rows * width * (tiles * (2 if tilted else 1) + 1)
    if element == 2:
        # Products exist in 16 bit as well as in float32.
        running += 2.0 * rows * width + 2.0 * width * embedding
    if objective.sampler in ("hp_loss", "hp_dist"):
        running += 4.0 * (vocabulary + masked) * objective.head.width
    return kept, running


def device_memory(
    recipe: Recipe, model: ModelConfig, deepspeed_json: dict[str, Any], ranks: int, micro_batch: int, accumulation: int
) -> Memory:
    """Memory of a device by part for a micro-batch; ZeRO divides it by ``ranks``."""
    zero = deepspeed_json.get("zero_optimization", {})
    half = bool(deepspeed_json.get("bf16", {}).get("enabled"))
    element = 2 if half else 4
    parameters = parameter_counts(model).total
    head = sampler_parameters(recipe.objective, model)
    tokens = micro_batch * recipe.data.sequence_length
    masked = round(tokens * recipe.data.mask_share)
    table = model.vocab_size * model.embedding
    part = parameters / ranks

    generator = tokens * encoder_bytes(model.generator, model, element, recipe.data.sequence_length)
    discriminator = tokens * encoder_bytes(model.discriminator, model, element, recipe.data.sequence_length)
    discriminator += tokens * 3 * model.discriminator.hidden * element
    at_masked = masked * masked_bytes(recipe.objective, model, element)
    kept, running = pass_bytes(recipe.objective, model, element, masked)
    if recipe.objective.sampler == "hp_dist":
        # Its backward pass goes over the vocabulary again, while all activations are held.
        keys = model.vocab_size * recipe.objective.head.width
        kept += (element + 8) * keys + 4 * min(masked, ROWS) * min(model.vocab_size, COLUMNS)

    bucket_size = int(zero.get("reduce_bucket_size", _BUCKET))
    contiguous = bool(zero.get("contiguous_gradients", True))
    bucket = float(bucket_size * element * (2 if zero.get("overlap_comm") else 1)) if contiguous else 0.0
    accumulates_exactly = half and deepspeed_json.get("data_types", {}).get("grad_accum_dtype") == "fp32"
    # With a single precision DeepSpeed keeps whole parameters' gradients: a part of the table means all of it.
    own = 4 * part if accumulates_exactly else element * max(part, table if ranks > 1 else 0)
    if zero.get("stage") == 1:
        own = float((4 if accumulates_exactly else element) * parameters)
    copied = float(element * min(bucket_size, parameters)) if ranks > 1 else 0.0

    weights = float((parameters + head) * element)
    # float32 weights and two moments: this rank's part; for the head all of them, and its whole gradient.
    optimizer = 12 * part + 16 * head
    always = weights + optimizer
    # A bucket that holds the whole gradient is reduced only when the backward pass is over.
    before = own if accumulation > 1 or parameters > bucket_size else 0.0
    gradients = bucket + before + head * element
    activations = generator + discriminator + at_masked
    moments = {
        "vocabulary pass": always + (own if accumulation > 1 else 0.0) + generator + at_masked + kept + running,
        "start of backward": always + gradients + activations + kept + tokens * model.discriminator.ffn * element,
        # Both networks' gradients for the word embeddings exist before they are added.
        "gradient of the embeddings": always + gradients + generator + at_masked + kept + 2 * element * table,
        "reduction": always + bucket + copied + own,
        # The whole gradient of this rank's part, and AdamW's intermediate results.
        "update": always + own + 8 * part,
    }
    return Memory(weights, optimizer, gradients, activations, kept, moments)
