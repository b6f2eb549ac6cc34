"""Sizes of the networks, and what follows from them: parameters and floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data_pipeline.errors import UserError
from electra_scale.model.initialisation import Init


def _require_positive(owner: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{owner}.{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class EncoderSize:
    """Size of one transformer encoder.

    Args:
        layers: number of transformer layers.
        hidden: width H of the hidden states; a multiple of ``heads``.
        ffn: inner width of the feed-forward blocks.
        heads: attention heads.

    Raises:
        UserError: a size below 1, or ``hidden`` not divisible by ``heads``.
    """

    layers: int
    hidden: int
    ffn: int
    heads: int

    def __post_init__(self) -> None:
        _require_positive("encoder size", layers=self.layers, hidden=self.hidden, ffn=self.ffn, heads=self.heads)
        if self.hidden % self.heads:
            raise UserError(
                f"encoder size: hidden {self.hidden} is not divisible by heads {self.heads}; "
                f"change one of them (for example heads to a divisor of {self.hidden})"
            )


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the whole model.

    Args:
        vocab_size: vocabulary V.
        embedding: width E of the embeddings that both encoders share.
        discriminator: size of the encoder that is kept after training.
        generator: size of the encoder that proposes replacements.
        max_positions: rows of the position table; no segment may be longer.
        token_types: rows of the token-type table; pre-training uses row 0, fine-tuning on pairs the others.
        dropout: share dropped after the embeddings and after each block's output.
        attention_dropout: share of attention probabilities dropped.
        layer_norm_eps: epsilon of every LayerNorm.
        init_std: standard deviation of the initial weights, cut at two deviations.
        init: ``bert``: all matrices at ``init_std``; ``fan_in``: dense layers at 1/sqrt(inputs).
        position_init: what learned positions start from, ``normal`` or ``sinusoidal``.

    Raises:
        UserError: a size below 1, or a share outside [0, 1).
    """

    vocab_size: int
    embedding: int
    discriminator: EncoderSize
    generator: EncoderSize
    max_positions: int = 512
    token_types: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    init_std: float = 0.02
    init: Init = "bert"
    position_init: Literal["normal", "sinusoidal"] = "normal"

    def __post_init__(self) -> None:
        _require_positive(
            "model",
            vocab_size=self.vocab_size,
            embedding=self.embedding,
            max_positions=self.max_positions,
            token_types=self.token_types,
        )
        for name, share in (("dropout", self.dropout), ("attention_dropout", self.attention_dropout)):
            if not 0.0 <= share < 1.0:
                raise UserError(f"model.{name} is {share}; it must be at least 0 and below 1")
        for name, value in (("layer_norm_eps", self.layer_norm_eps), ("init_std", self.init_std)):
            if not value > 0.0:
                raise UserError(f"model.{name} is {value}; it must be above 0")


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
    (:func:`electra_scale.replacement.cost.sampler_flops`).

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
