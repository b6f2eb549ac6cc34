"""The transformer encoder of BERT and ELECTRA: LayerNorm after each residual, erf GELU, learned positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from electra_scale.model.architectures.architecture import Hidden, Network
from electra_scale.model.attention.layout import Layout
from electra_scale.model.attention.tokens import Tokens, tokens_of
from electra_scale.model.checkpointing import run_layer
from electra_scale.model.compiled import stage
from electra_scale.model.dropout import Dropout
from electra_scale.model.embeddings import Embeddings
from electra_scale.model.heads import BertDiscriminatorHead, BertGeneratorHead
from electra_scale.model.initialisation import neighbour_attention
from electra_scale.recipe.model import EncoderSize, ModelConfig

_SMALL_TENSORS = 32
"""Bytes per token and network of tensors with one number a token: ids, positions, segments, logits, labels."""

_EMBEDDINGS = {
    "word": "word_embeddings",
    "position": "position_embeddings",
    "token_type": "token_type_embeddings",
}
_LAYER = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention_output": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "ffn_in": ("intermediate.dense",),
    "ffn_out": ("output.dense",),
    "ffn_norm": ("output.LayerNorm",),
}
_HEADS: dict[Network, dict[str, str]] = {
    "discriminator": {
        "dense": "discriminator_predictions.dense",
        "output": "discriminator_predictions.dense_prediction",
    },
    "generator": {"dense": "generator_predictions.dense", "norm": "generator_predictions.LayerNorm"},
}


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward block, each followed by dropout, residual and LayerNorm."""

    def __init__(self, size: EncoderSize, config: ModelConfig) -> None:
        super().__init__()
        hidden = size.hidden
        self.heads = size.heads
        self.attention_dropout = config.attention_dropout
        self.compiles = config.compile
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.attention_output = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=config.architecture.layer_norm_eps)
        self.ffn_in = nn.Linear(hidden, size.ffn)
        self.ffn_out = nn.Linear(size.ffn, hidden)
        self.ffn_norm = nn.LayerNorm(hidden, eps=config.architecture.layer_norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden: Tensor, tokens: Tokens, only: Tensor | None = None) -> Tensor:
        """States (...,H) of ``tokens`` to (...,H); or to (M,H), at the places ``only`` (M,).

        All positions are attended to. What comes after attention looks at one position at a time.
        """
        compiles = self.compiles and self.training and torch.is_grad_enabled()
        query, key, value = stage(EncoderLayer.before_attention, compiles, hidden)(self, hidden)
        context = tokens.attend(query, key, value, None, self.attention_dropout if self.training else 0.0)
        if only is None:
            return stage(EncoderLayer.after_attention, compiles, hidden)(self, hidden, context)
        # As many as are masked, which changes: compiled, each number would be compiled anew.
        return self.after_attention(tokens.choose(hidden, only), tokens.choose(context, only))

    def before_attention(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (...,heads,D) of states (...,H)."""
        # Rows of the fused weight are Q, then K, then V, each of `heads` blocks.
        query, key, value = self.qkv(hidden).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return query, key, value

    def after_attention(self, hidden: Tensor, context: Tensor) -> Tensor:
        """The layer's output (...,H) of its input and the context, (...,H) both."""
        hidden = self.attention_norm(hidden + self.dropout(self.attention_output(context)))
        inner = F.gelu(self.ffn_in(hidden))
        found: Tensor = self.ffn_norm(hidden + self.dropout(self.ffn_out(inner)))
        return found


class BertEncoder(nn.Module):
    """A stack of :class:`EncoderLayer`, with a projection from E to H in front where the two differ.

    Args:
        size: layers, widths and heads.
        config: width E of the input, dropout shares and LayerNorm epsilon.
    """

    def __init__(self, size: EncoderSize, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.head_width = size.hidden // size.heads
        self.project = nn.Linear(config.embedding, size.hidden) if config.embedding != size.hidden else None
        self.layers = nn.ModuleList(EncoderLayer(size, config) for _ in range(size.layers))

    def forward(
        self, embedded: Tensor, layout: Layout, depths: Sequence[int] = (), only: Tensor | None = None
    ) -> Hidden:
        """Encode embedded tokens (B,S,E); attention stays inside a segment of the layout."""
        assert only is None or len(self.layers) not in depths, "states of the last layer at all positions are wanted"
        tokens = tokens_of(layout, embedded.dtype, self.head_width, self.config, self.training)
        hidden = tokens.enter(embedded)
        hidden = hidden if self.project is None else self.project(hidden)
        at = {0: tokens.leave(hidden)} if 0 in depths else {}
        for depth, layer in enumerate(self.layers, 1):
            hidden = run_layer(layer, self.config, hidden, tokens, only if depth == len(self.layers) else None)
            if depth in depths:
                at[depth] = tokens.leave(hidden)
        return Hidden(hidden if only is not None else tokens.leave(hidden), at)

    @torch.no_grad()
    def attend_to_neighbours(self) -> None:
        """Give the first layer's heads, four of them at most, the queries and keys of :func:`neighbour_attention`."""
        layer = cast(EncoderLayer, self.layers[0])
        width = layer.qkv.in_features
        for head, (query, key) in enumerate(neighbour_attention(width, layer.heads)):
            first = head * len(query)
            layer.qkv.weight[first : first + len(query)] = query
            layer.qkv.weight[width + first : width + first + len(key)] = key


class BertArchitecture:
    """Encoders of this kind, for a configuration of the networks."""

    model_type: ClassVar[str] = "electra"

    hugging_face: ClassVar[dict[Network, str]] = {
        "discriminator": "ElectraForPreTraining",
        "generator": "ElectraForMaskedLM",
    }

    token_settings: ClassVar[dict[str, str]] = {"pad_token_id": "pad_token_id"}

    inputs: ClassVar[list[str] | None] = None

    for_tasks: ClassVar[tuple[str, str]] = ("ElectraForSequenceClassification", "")

    flops_formulas: ClassVar[tuple[str, ...]] = (
        "forward of an encoder: 2 E H [E != H] + layers (8 H^2 + 4 H F + 4 S H)",
        "(the last layer of the generator has all but 6 H^2 + 4 S H of it at masked positions only)",
        "of the heads: generator (M/S) (2 H E + 2 E V), discriminator 2 H^2 + 2 H",
    )

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @property
    def tied(self) -> dict[Network, dict[str, str]]:
        return {
            "discriminator": {},
            "generator": {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
        }

    def embeddings(self) -> Embeddings:
        return Embeddings(self.config)

    def encoder(self, size: EncoderSize) -> BertEncoder:
        return BertEncoder(size, self.config)

    def generator_head(self) -> BertGeneratorHead:
        config = self.config
        return BertGeneratorHead(
            config.generator.hidden, config.embedding, config.vocab_size, config.architecture.layer_norm_eps
        )

    def discriminator_head(self) -> BertDiscriminatorHead:
        return BertDiscriminatorHead(self.config.discriminator.hidden)

    def embedding_parameters(self) -> int:
        config = self.config
        rows = config.vocab_size + config.max_positions + config.architecture.token_types
        return rows * config.embedding + 2 * config.embedding

    def encoder_parameters(self, size: EncoderSize) -> int:
        hidden, ffn, embedding = size.hidden, size.ffn, self.config.embedding
        attention = 4 * hidden * hidden + 4 * hidden
        feed_forward = 2 * hidden * ffn + ffn + hidden
        norms = 2 * 2 * hidden
        project = embedding * hidden + hidden if embedding != hidden else 0
        return project + size.layers * (attention + feed_forward + norms)

    def head_parameters(self, network: Network) -> int:
        if network == "generator":
            embedding = self.config.embedding
            return self.config.generator.hidden * embedding + embedding + 2 * embedding + self.config.vocab_size
        hidden = self.config.discriminator.hidden
        return hidden * hidden + 2 * hidden + 1

    def encoder_flops(self, size: EncoderSize, positions: float, wanted: float = 1.0) -> float:
        """``2 E H [E != H] + layers * (6 H^2 + 4 S H) + (layers - 1 + wanted) * (2 H^2 + 4 H F)``.

        The input projection; then per layer Q, K and V (3 products H x H), scores and values over S positions, the
        output (H x H) and the feed-forward pair (2 products H x F), which the last layer has only where its states are
        wanted. Element-wise work is not counted.
        """
        hidden, ffn, embedding = size.hidden, size.ffn, self.config.embedding
        project = 2 * embedding * hidden if embedding != hidden else 0
        by_row = size.layers * 6 * hidden * hidden + self.attention_flops(size, positions)
        by_position = (size.layers - 1 + wanted) * (2 * hidden * hidden + 4 * hidden * ffn)
        return float(project + by_row + by_position)

    def attention_flops(self, size: EncoderSize, positions: float) -> float:
        return 4 * positions * size.hidden * size.layers

    def input_flops(self, size: EncoderSize) -> float:
        """Of the projection, or of the first layer's Q, K and V."""
        hidden, embedding = size.hidden, self.config.embedding
        return float(2 * embedding * hidden if embedding != hidden else 6 * hidden * hidden)

    def recomputed_flops(self, size: EncoderSize, positions: float, wanted: float = 1.0) -> float:
        """All but the input projection."""
        hidden, embedding = size.hidden, self.config.embedding
        return self.encoder_flops(size, positions, wanted) - (2 * embedding * hidden if embedding != hidden else 0)

    def head_flops(self, network: Network) -> float:
        """``2 H E`` for the generator's, ``2 H^2 + 2 H`` for the discriminator's."""
        if network == "generator":
            return float(2 * self.config.generator.hidden * self.config.embedding)
        hidden = self.config.discriminator.hidden
        return float(2 * hidden * hidden + 2 * hidden)

    def encoder_bytes(
        self, size: EncoderSize, element: int, wanted: float = 1.0, learns: bool = True, below: bool = True
    ) -> float:
        """``b (layers (8 H + 2 F) + E + E [E != H])`` with b bytes a number, if all positions are ``wanted``.

        Per layer its input, Q, K, V, context, two LayerNorm inputs and one output of H each, the feed-forward's inner
        values before and after GELU. Besides ``4 (layers (heads + 4) + 2)``: softmax normalisers, means and deviations.
        Attention is fused: one that is not keeps heads x S probabilities as well. A dropped number has a byte for its
        mask. Of the last layer's the LayerNorm inputs, the output and the inner values are kept where its states are
        wanted, and there the context a second time. With activation checkpointing of a layer only its input is kept.

        What only a weight's gradient needs is not kept of an encoder that does not learn: inputs, that output, the
        values after GELU and the second context. Without embeddings that learn their own LayerNorm keeps nothing.
        """
        if not (learns or below):
            return 0.0
        hidden, embedding = size.hidden, self.config.embedding
        checkpointed = self.config.activation_checkpointing
        kept = size.layers * hidden * (learns or checkpointed)
        kept += embedding * learns if embedding != hidden else 0
        found = float(kept * element + _SMALL_TENSORS)
        if below:
            found += embedding * element + 4 * 2 + (embedding if self.config.dropout > 0 else 0)
        if checkpointed:
            return found
        whole, last = (self.layer_bytes(size, element, share, learns) for share in (1.0, wanted))
        return found + (size.layers - 1) * whole + last

    def layer_bytes(self, size: EncoderSize, element: int, wanted: float = 1.0, learns: bool = True) -> float:
        hidden, left_out = size.hidden, 1 - wanted
        by_position = (2 + learns) * hidden + (1 + learns) * size.ffn
        kept = 4 * hidden + wanted * by_position + (wanted * hidden if left_out and learns else 0)
        dropped = 2 * wanted * hidden if self.config.dropout > 0 else 0
        return kept * element + 4 * (size.heads + 4 - 4 * left_out) + dropped

    def largest_parameter(self, size: EncoderSize) -> int:
        return size.hidden * max(3 * size.hidden, size.ffn)

    def row_attention_bytes(self, positions: int, element: int) -> float:
        """One mask of S x S."""
        return float(positions * element)

    def head_bytes(self, network: Network, element: int, learns: bool = True) -> float:
        """``b (H + 2 E)`` of the generator's, ``3 b H`` of the discriminator's: input, dense and GELU.

        Of one that does not learn only what GELU, and the generator's LayerNorm, are applied to.
        """
        hidden, embedding = self.config.discriminator.hidden, self.config.embedding
        if network == "generator":
            return float((self.config.generator.hidden + 2 * embedding if learns else 2 * embedding) * element)
        return float((3 if learns else 1) * hidden * element)

    def transformers_config(self, network: Network) -> Any:
        from transformers import ElectraConfig

        config = self.config
        size: EncoderSize = getattr(config, network)
        return ElectraConfig(
            vocab_size=config.vocab_size,
            embedding_size=config.embedding,
            hidden_size=size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=size.ffn,
            hidden_act="gelu",
            hidden_dropout_prob=config.exported_dropout,
            attention_probs_dropout_prob=config.exported_dropout,
            summary_last_dropout=config.exported_dropout,
            max_position_embeddings=config.max_positions,
            type_vocab_size=config.architecture.token_types,
            initializer_range=config.init_std,
            layer_norm_eps=config.architecture.layer_norm_eps,
            tie_word_embeddings=True,
        )

    def transformers_names(self, network: Network) -> dict[str, tuple[str, ...]]:
        size: EncoderSize = getattr(self.config, network)
        names: dict[str, tuple[str, ...]] = {}

        def both(ours: str, *theirs: str) -> None:
            for leaf in ("weight", "bias"):
                names[f"{ours}.{leaf}"] = tuple(f"{name}.{leaf}" for name in theirs)

        for ours, theirs in _EMBEDDINGS.items():
            names[f"embeddings.{ours}.weight"] = (f"electra.embeddings.{theirs}.weight",)
        both("embeddings.norm", "electra.embeddings.LayerNorm")
        if self.config.embedding != size.hidden:
            both(f"{network}.project", "electra.embeddings_project")
        for layer in range(size.layers):
            for ours, parts in _LAYER.items():
                both(f"{network}.layers.{layer}.{ours}", *(f"electra.encoder.layer.{layer}.{part}" for part in parts))
        for ours, theirs in _HEADS[network].items():
            both(f"{network}_head.{ours}", theirs)
        if network == "generator":
            names["generator_head.bias"] = ("generator_lm_head.bias",)
        return names

    def folded(self, network: Network, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights

    def unfolded(
        self, network: Network, weights: dict[str, Tensor], table: Tensor | None
    ) -> tuple[dict[str, Tensor], float]:
        return weights, 0.0

    def differences(self, network: Network, config: Any) -> list[str]:
        ours, size = self.config, getattr(self.config, network)
        if config.model_type != "electra":
            return [f"model_type {config.model_type} there, electra here"]
        pairs: dict[str, tuple[object, object]] = {
            "hidden_act": (getattr(config, "hidden_act", None), "gelu"),
            "vocab_size": (config.vocab_size, ours.vocab_size),
            "embedding": (getattr(config, "embedding_size", None), ours.embedding),
            "max_positions": (config.max_position_embeddings, ours.max_positions),
            "token_types": (getattr(config, "type_vocab_size", None), ours.architecture.token_types),
            "layer_norm_eps": (getattr(config, "layer_norm_eps", None), ours.architecture.layer_norm_eps),
            f"{network}.layers": (config.num_hidden_layers, size.layers),
            f"{network}.hidden": (config.hidden_size, size.hidden),
            f"{network}.ffn": (config.intermediate_size, size.ffn),
            f"{network}.heads": (config.num_attention_heads, size.heads),
        }
        return [f"{name} {there} there, {here} here" for name, (there, here) in pairs.items() if there != here]
