"""Sizes of the networks, how they are built, and what their weights start from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from data_pipeline.errors import UserError

Init = Literal["bert", "fan_in"]
InitNetworks = Literal["auto", "discriminator", "generator", "both"]


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

    def __str__(self) -> str:
        return f"layers {self.layers}, hidden {self.hidden}, ffn {self.ffn}, heads {self.heads}"


@dataclass
class BertSettings:
    """The transformer of BERT and ELECTRA: LayerNorm after each residual, erf GELU, learned positions."""

    kind: Literal["bert"] = "bert"
    """Which encoder this is."""

    token_types: int = 2
    """Rows of the token-type table; pre-training uses row 0, fine-tuning on pairs the others."""

    layer_norm_eps: float = 1e-12
    """Epsilon of every LayerNorm."""

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        found = []
        if self.token_types < 1:
            found.append(f"architecture.token_types is {self.token_types}; it must be at least 1")
        if not self.layer_norm_eps > 0:
            found.append(f"architecture.layer_norm_eps is {self.layer_norm_eps}; it must be above 0")
        return found

    def misfits(self, model: NetworkSettings) -> list[str]:
        """Sizes and starts of the networks that this encoder cannot have, one sentence each."""
        return []


@dataclass
class ModernSettings:
    """The transformer of ModernBERT (Warner et al. 2024): LayerNorm before each block, no biases, rotary positions,
    gated GELU; some layers attend to the whole text, the others to a window."""

    kind: Literal["modern"] = "modern"
    """Which encoder this is."""

    layer_norm_eps: float = 1e-5
    """Epsilon of every LayerNorm."""

    global_every: int = 3
    """Each so many layers, from the first on, one attends to the whole text; the others to the window."""

    window: int = 128
    """Positions that a layer with a window attends to, half of them on each side, besides the token's own."""

    global_theta: float = 160000.0
    """Base of the rotary positions' wavelengths in layers that attend to the whole text."""

    local_theta: float = 10000.0
    """The same in layers with a window."""

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        found = []
        if self.global_every < 1:
            found.append(f"architecture.global_every is {self.global_every}; it must be at least 1")
        if self.window < 2 or self.window % 2:
            found.append(f"architecture.window is {self.window}; it must be even, and at least 2")
        for name in ("layer_norm_eps", "global_theta", "local_theta"):
            if not 0 < getattr(self, name) < math.inf:
                found.append(f"architecture.{name} is {getattr(self, name)}; it must be above 0")
        return found

    def misfits(self, model: NetworkSettings) -> list[str]:
        """Sizes and starts of the networks that this encoder cannot have, one sentence each."""
        found = []
        for name, size in (("discriminator", model.discriminator), ("generator", model.generator)):
            if size.hidden // size.heads % 2:
                found.append(
                    f"model.{name} has heads of width {size.hidden // size.heads}, and rotary positions need an even "
                    "one; change hidden or heads"
                )
        if model.position_init == "sinusoidal":
            found.append(
                "model.position_init is sinusoidal, but architecture.kind modern has no table of positions that could "
                "start so; set it to normal or neighbours"
            )
        return found


@dataclass
class TiedSettings:
    """Both networks read one embedding layer, and the generator's scores are made with it (Clark et al. 2020)."""

    kind: Literal["tied"] = "tied"
    """How embeddings are shared."""

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        return []


@dataclass(kw_only=True)
class NetworkSettings:
    """Sizes of the two encoders and of what they share."""

    embedding: int = 128
    """Width E of the shared embeddings."""

    discriminator: EncoderSize = field(default_factory=lambda: EncoderSize(12, 256, 1024, 4))
    """The encoder that is kept in the end."""

    generator: EncoderSize = field(default_factory=lambda: EncoderSize(12, 64, 256, 1))
    """The encoder that proposes replacements."""

    max_positions: int = 512
    """Longest sequence: rows of the table of positions, where there is one, and where an export cuts texts."""

    dropout: float = 0.1
    """Dropout of hidden states in both networks; 0 makes training exact across world sizes."""

    attention_dropout: float = 0.1
    """Dropout of attention probabilities in both networks."""

    activation_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the rest of it again there: less memory, for about
    a third more computing. Losses and gradients are the same."""

    compile: bool = False
    """Compile the parts of each layer before and after attention with torch.compile, for training alone. It needs a
    C++ compiler on a CPU, Triton on a GPU. Losses and gradients are the same up to rounding."""

    exported_dropout: float = 0.1
    """Dropout in the configurations of an export, all kinds of it: what fine-tuning starts with, whatever pre-training
    had."""

    init_std: float = 0.02
    """Standard deviation of the truncated normal that weights start from."""

    init: Init = "bert"
    """``bert``: every matrix has that deviation; ``fan_in``: dense layers have 1/sqrt(inputs), better when narrow."""

    position_init: Literal["normal", "sinusoidal", "neighbours"] = "normal"
    """What positions start from. ``sinusoidal``: learned position embeddings are sines and cosines. ``neighbours``: so
    they are, and the heads of each encoder's first layer start by attending to the tokens next to their own, for
    budgets of minutes; with rotary positions these heads read a number that all words have in common."""

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        found = []
        for name, value in (("embedding", self.embedding), ("max_positions", self.max_positions)):
            if value < 1:
                found.append(f"model.{name} is {value}; it must be at least 1")
        for name in ("dropout", "attention_dropout", "exported_dropout"):
            share = getattr(self, name)
            if not 0.0 <= share < 1.0:
                found.append(f"model.{name} is {share}; it must be at least 0 and below 1")
        if not self.init_std > 0.0:
            found.append(f"model.init_std is {self.init_std}; it must be above 0")
        return found


@dataclass(kw_only=True)
class ModelSection(NetworkSettings):
    """Sizes of the two encoders and what their weights start from; the vocabulary comes from the store."""

    init_from: str | None = None
    """Weights to start from: a folder that transformers saved (an export with ``discriminator`` and ``generator``, or
    one of them, or one ELECTRA or BERT model), or a run folder of ours."""

    init_networks: InitNetworks = "auto"
    """Which networks start from ``init_from``. ``auto``: those that it holds; one masked language model is for the
    discriminator, and for the generator where its widths are the same. What is named must fit."""

    cooccurrence_embeddings: bool = False
    """Start word embeddings from the corpus's co-occurrence counts: for budgets of minutes (docs/experiments.md)."""

    unigram_bias: bool = False
    """Start the generator's output bias at the log token frequencies."""


@dataclass(kw_only=True)
class ModelConfig(NetworkSettings):
    """All that the networks are built from: the sizes, the vocabulary V, the architecture and the sharing.

    Raises:
        UserError: a size below 1, or a share outside [0, 1).
    """

    vocab_size: int
    architecture: Any = field(default_factory=BertSettings)
    sharing: Any = field(default_factory=TiedSettings)

    def __post_init__(self) -> None:
        found = [*self.problems(), *self.architecture.problems(), *self.sharing.problems()]
        found += self.architecture.misfits(self)
        if self.vocab_size < 1:
            found.append(f"model.vocab_size is {self.vocab_size}; it must be at least 1")
        if found:
            raise UserError("; ".join(found))
