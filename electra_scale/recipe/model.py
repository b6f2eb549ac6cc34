"""Sizes of the networks and what their weights start from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_pipeline.errors import UserError

Init = Literal["bert", "fan_in"]


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


@dataclass
class ModelSection:
    """Sizes of the two encoders; the vocabulary comes from the store."""

    embedding: int = 128
    """Width E of the shared embeddings."""

    discriminator: EncoderSize = field(default_factory=lambda: EncoderSize(12, 256, 1024, 4))
    """The encoder that is kept in the end."""

    generator: EncoderSize = field(default_factory=lambda: EncoderSize(12, 64, 256, 1))
    """The encoder that proposes replacements."""

    max_positions: int = 512
    """Longest sequence that the position embeddings allow."""

    dropout: float = 0.1
    """Dropout of hidden states in both networks; 0 makes training exact across world sizes."""

    attention_dropout: float = 0.1
    """Dropout of attention probabilities in both networks."""

    init_std: float = 0.02
    """Standard deviation of the truncated normal that weights start from."""

    init: Literal["bert", "fan_in"] = "bert"
    """``bert``: every matrix has that deviation; ``fan_in``: dense layers have 1/sqrt(inputs), better when narrow."""

    position_init: Literal["normal", "sinusoidal"] = "normal"
    """What the learned position embeddings start from."""

    init_from: str | None = None
    """Exported checkpoint (folder with ``discriminator`` and ``generator``) to start from."""

    cooccurrence_embeddings: bool = False
    """Start word embeddings from the corpus' co-occurrence counts: for budgets of minutes (docs/experiments.md)."""

    unigram_bias: bool = False
    """Start the generator's output bias at the log token frequencies."""

    def resolve(self, vocab_size: int) -> ModelConfig:
        """The model's own configuration for a vocabulary."""
        return ModelConfig(
            vocab_size=vocab_size,
            embedding=self.embedding,
            discriminator=self.discriminator,
            generator=self.generator,
            max_positions=self.max_positions,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            init_std=self.init_std,
            init=self.init,
            position_init=self.position_init,
        )
