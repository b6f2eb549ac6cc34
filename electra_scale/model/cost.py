"""Sizes of the networks, and what follows from them: parameters and floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

from electra_scale.recipe.model import EncoderSize, ModelConfig


@dataclass(frozen=True)
class ParameterCounts:
    """Trainable parameters by part; the sampling head is not among them."""

    embeddings: int
    generator: int
    generator_head: int
    discriminator: int
    discriminator_head: int

    @property
    def total(self) -> int:
        """All parameters that pre-training holds, the shared embeddings once."""
        return self.generator_phase + self.discriminator + self.discriminator_head

    @property
    def generator_phase(self) -> int:
        """Those that a warm-up of the generator alone trains."""
        return self.embeddings + self.generator + self.generator_head


def _encoder_parameters(size: EncoderSize, embedding: int) -> int:
    hidden, ffn = size.hidden, size.ffn
    attention = 4 * hidden * hidden + 4 * hidden
    feed_forward = 2 * hidden * ffn + ffn + hidden
    norms = 2 * 2 * hidden
    project = embedding * hidden + hidden if embedding != hidden else 0
    return project + size.layers * (attention + feed_forward + norms)


def parameter_counts(config: ModelConfig) -> ParameterCounts:
    """Parameters of each part of :class:`electra_scale.model.Electra`, from the sizes alone."""
    embedding = config.embedding
    rows = config.vocab_size + config.max_positions + config.token_types
    generator, discriminator = config.generator, config.discriminator
    return ParameterCounts(
        embeddings=rows * embedding + 2 * embedding,
        generator=_encoder_parameters(generator, embedding),
        generator_head=generator.hidden * embedding + embedding + 2 * embedding + config.vocab_size,
        discriminator=_encoder_parameters(discriminator, embedding),
        discriminator_head=discriminator.hidden * discriminator.hidden + 2 * discriminator.hidden + 1,
    )


def encoder_flops(size: EncoderSize, embedding: int, positions: int) -> float:
    """Forward floating-point operations of one encoder per token, a multiply-add counted as 2.

    ``2 E H [E != H] + layers * (8 H^2 + 4 H F + 4 S H)``: the input projection; then per layer Q, K, V and
    output (4 products H x H), the feed-forward pair (2 products H x F), and scores and values over S
    positions. Element-wise work is not counted. For packed rows S is the row, as a dense masked product
    computes it.

    Args:
        size: the encoder.
        embedding: width E of its input.
        positions: row length S.
    """
    hidden, ffn = size.hidden, size.ffn
    project = 2 * embedding * hidden if embedding != hidden else 0
    return float(project + size.layers * (8 * hidden * hidden + 4 * hidden * ffn + 4 * positions * hidden))


def generator_flops(config: ModelConfig, positions: int, masked_share: float) -> float:
    """Forward operations of the generator per token: the encoder plus ``(M/S) * (2 H E + 2 E V)``.

    The head and the vocabulary projection run at masked positions only, hence the share.

    Args:
        config: the model.
        positions: row length S.
        masked_share: M/S, masked positions per position.
    """
    head = 2 * config.generator.hidden * config.embedding + 2 * config.embedding * config.vocab_size
    return encoder_flops(config.generator, config.embedding, positions) + masked_share * head


def discriminator_flops(config: ModelConfig, positions: int) -> float:
    """Forward operations of the discriminator per token: the encoder plus ``2 H^2 + 2 H`` for its head.

    Args:
        config: the model.
        positions: row length S.
    """
    hidden = config.discriminator.hidden
    head = 2 * hidden * hidden + 2 * hidden
    return encoder_flops(config.discriminator, config.embedding, positions) + head


def training_flops(config: ModelConfig, positions: int, masked_share: float, joint: bool) -> float:
    """Operations of a training step per token, which MFU is taken from: 3 times the forward pass.

    Backward forms two products for each of forward's. The sampling head's own products are not among them
    (:func:`electra_scale.corruption.samplers.cost.sampler_flops`).

    Args:
        config: the model.
        positions: row length S.
        masked_share: M/S, masked positions per position.
        joint: both networks train; else the generator alone.
    """
    forward = generator_flops(config, positions, masked_share)
    if joint:
        forward += discriminator_flops(config, positions)
    return 3 * forward
