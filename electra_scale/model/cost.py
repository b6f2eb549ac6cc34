"""What follows from the sizes of the networks: parameters and floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

from electra_scale.model.architectures.architecture import architecture_of
from electra_scale.recipe.model import ModelConfig


@dataclass(frozen=True)
class ParameterCounts:
    """Trainable parameters by part; what a corruption learns besides is not among them."""

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


def parameter_counts(config: ModelConfig, with_generator: bool = True) -> ParameterCounts:
    """Parameters of each part of :class:`electra_scale.model.electra.Electra`, from the sizes alone."""
    architecture = architecture_of(config)
    return ParameterCounts(
        embeddings=architecture.embedding_parameters(),
        generator=architecture.encoder_parameters(config.generator) if with_generator else 0,
        generator_head=architecture.head_parameters("generator") if with_generator else 0,
        discriminator=architecture.encoder_parameters(config.discriminator),
        discriminator_head=architecture.head_parameters("discriminator"),
    )


def generator_flops(config: ModelConfig, positions: int, masked_share: float) -> float:
    """Forward operations of the generator per token: the encoder plus ``(M/S) * (head + 2 E V)``.

    The head and the scores of the vocabulary run at masked positions only, hence the share; so does what the encoder's
    last layer does after attention.

    Args:
        config: the model.
        positions: row length S.
        masked_share: M/S, masked positions per position.
    """
    architecture = architecture_of(config)
    head = architecture.head_flops("generator") + 2 * config.embedding * config.vocab_size
    encoder = architecture.encoder_flops(config.generator, positions, wanted=masked_share)
    return encoder + masked_share * head


def discriminator_flops(config: ModelConfig, positions: int) -> float:
    """Forward operations of the discriminator per token: the encoder and its head.

    Args:
        config: the model.
        positions: row length S.
    """
    architecture = architecture_of(config)
    return architecture.encoder_flops(config.discriminator, positions) + architecture.head_flops("discriminator")


def recomputed_flops(
    config: ModelConfig,
    positions: int,
    masked_share: float,
    joint: bool,
    with_generator: bool = True,
    generator_learns: bool = True,
) -> float:
    """Operations per token that a training step does twice, because of activation checkpointing; MFU does not count
    them. Arguments are those of :func:`training_flops`."""
    if not config.activation_checkpointing:
        return 0.0
    architecture, found = architecture_of(config), 0.0
    if with_generator and (generator_learns or not joint):
        found += architecture.recomputed_flops(config.generator, positions, wanted=masked_share)
    return found + (architecture.recomputed_flops(config.discriminator, positions) if joint else 0.0)


def training_flops(
    config: ModelConfig,
    positions: int,
    masked_share: float,
    joint: bool,
    with_generator: bool = True,
    generator_learns: bool = True,
) -> float:
    """Operations of a training step per token, which MFU is taken from: 3 times the forward pass of what learns.

    Backward forms two products for each of forward's. What a corruption learns besides is not among them
    (:func:`electra_scale.corruption.samplers.cost.sampler_flops`).

    Args:
        config: the model.
        positions: row length S.
        masked_share: M/S, masked positions per position.
        joint: both networks train; else the generator alone.
        with_generator: there is a generator.
        generator_learns: in the joint phase too.
    """
    generator = generator_flops(config, positions, masked_share) if with_generator else 0.0
    if not joint:
        return 3 * generator
    return (3 if generator_learns else 1) * generator + 3 * discriminator_flops(config, positions)
