"""What follows from the sizes of the networks: parameters and floating-point operations."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from electra_scale.model.architectures.architecture import Network, architecture_of
from electra_scale.recipe.model import ModelConfig
from electra_scale.recipe.optimizer import PARTS


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters by part; what a corruption learns besides is not among them."""

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
        """Those of the parts that a warm-up of the generator alone runs."""
        return self.embeddings + self.generator + self.generator_head

    def of(self, names: Collection[str]) -> int:
        """Those of the parts with these names; other names are passed over."""
        return sum(count for name, count in vars(self).items() if name in names)


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
    trained: Collection[str] = PARTS,
) -> float:
    """Operations per token that a training step does twice, because of activation checkpointing; MFU does not count
    them. Arguments are those of :func:`training_flops`."""
    if not config.activation_checkpointing:
        return 0.0
    architecture, found = architecture_of(config), 0.0
    if with_generator and reaches("generator", trained):
        found += architecture.recomputed_flops(config.generator, positions, wanted=masked_share)
    if joint and reaches("discriminator", trained):
        found += architecture.recomputed_flops(config.discriminator, positions)
    return found


def reaches(network: Network, trained: Collection[str]) -> bool:
    """Whether a gradient goes through a network's encoder, given the parts that train: for itself or the embeddings."""
    return network in trained or "embeddings" in trained


def training_flops(
    config: ModelConfig,
    positions: int,
    masked_share: float,
    joint: bool,
    with_generator: bool = True,
    trained: Collection[str] = PARTS,
) -> float:
    """Operations of a training step per token, which MFU is taken from: 3 times the forward pass where all learns.

    Backward forms two products for each of forward's: the gradient of a weight where its part trains, and that of what
    it is applied to where a part below trains. What a corruption learns besides is not among them
    (:func:`electra_scale.corruption.samplers.cost.sampler_flops`).

    Args:
        config: the model.
        positions: row length S.
        masked_share: M/S, masked positions per position.
        joint: both networks run; else the generator alone.
        with_generator: there is a generator.
        trained: names of the parts that train (:func:`electra_scale.recipe.phases.trained_parts`).
    """
    found = 0.0
    if with_generator:
        found += generator_flops(config, positions, masked_share)
        found += _backward_flops(config, "generator", positions, masked_share, trained)
        # Gradients of the scores are all formed in one pass, or none is.
        if "generator_head" in trained or reaches("generator", trained):
            found += masked_share * 2 * 2 * config.embedding * config.vocab_size
    if joint:
        found += discriminator_flops(config, positions)
        found += _backward_flops(config, "discriminator", positions, 1.0, trained)
    return found


def _backward_flops(
    config: ModelConfig, network: Network, positions: int, wanted: float, trained: Collection[str]
) -> float:
    """Operations per token of the backward pass of an encoder and its head, which ``wanted`` positions have."""
    architecture, size = architecture_of(config), getattr(config, network)
    reached = reaches(network, trained)
    found = wanted * architecture.head_flops(network) * (reached + (f"{network}_head" in trained))
    if reached:
        attention = architecture.attention_flops(size, positions)
        products = architecture.encoder_flops(size, positions, wanted) - attention
        # Both factors of a product in attention are made of hidden states.
        found += 2 * attention + products * (1 + (network in trained))
        if "embeddings" not in trained:
            found -= architecture.input_flops(size)
    return found
