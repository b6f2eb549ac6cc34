"""The network of ModernBERT (Warner et al. 2024): rotary positions, gated feed-forward blocks, windows of attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from electra_scale.model.architectures.architecture import Hidden
from electra_scale.model.attention.layout import Layout
from electra_scale.model.attention.tokens import Tokens, tokens_of
from electra_scale.model.checkpointing import run_layer
from electra_scale.model.compiled import stage
from electra_scale.model.dropout import Dropout
from electra_scale.model.initialisation import Dense, rotary_neighbour_attention
from electra_scale.recipe.model import EncoderSize, ModelConfig

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines (...,1,1,D/2) of a head's angles, for tokens (...)."""


def rotation(positions: Tensor, width: int, theta: float) -> Rotation:
    """The angles of heads of ``width`` D at positions (...), each times ``theta ** (-2 i / D)``, in float32 (Su et al.
    2021)."""
    rates = 1.0 / theta ** (torch.arange(0, width, 2, device=positions.device).float() / width)
    angles = positions[..., None, None, None].float() * rates
    return angles.cos(), angles.sin()


def rotate(states: Tensor, by: Rotation) -> Tensor:
    """Turn states (...,n,heads,D), whose halves are pairs, by the angles of their positions; computed in float32."""
    cosine, sine = by
    first, second = states.float().chunk(2, -1)
    turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)
    return turned.to(states.dtype)


class ModernLayer(nn.Module):
    """LayerNorm and self-attention, LayerNorm and a gated feed-forward block, each added to what came in.

    Args:
        size: of the encoder.
        config: dropout shares and settings of the architecture.
        index: of the layer. The first has no LayerNorm before attention, since the embeddings end with one.
    """

    def __init__(self, size: EncoderSize, config: ModelConfig, index: int) -> None:
        super().__init__()
        hidden, settings = size.hidden, config.architecture
        scale = output_scale(size)
        self.heads = size.heads
        self.attention_dropout = config.attention_dropout
        self.compiles = config.compile
        self.window = None if index % settings.global_every == 0 else settings.window
        self.theta = settings.global_theta if self.window is None else settings.local_theta
        self.attention_norm = norm(hidden, config) if index else nn.Identity()
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.attention_output = Dense(hidden, hidden, scale)
        self.ffn_norm = norm(hidden, config)
        self.ffn_in = nn.Linear(hidden, 2 * size.ffn, bias=False)
        self.ffn_out = Dense(size.ffn, hidden, scale)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden: Tensor, tokens: Tokens, turn: Rotation, only: Tensor | None = None) -> Tensor:
        """States (...,H) of ``tokens`` to (...,H); or to (M,H), at the places ``only`` (M,).

        All positions are attended to. What comes after attention looks at one position at a time.
        """
        compiles = self.compiles and self.training and torch.is_grad_enabled()
        query, key, value = stage(ModernLayer.before_attention, compiles, hidden)(self, hidden, turn)
        dropout = self.attention_dropout if self.training else 0.0
        context = tokens.attend(query, key, value, self.window, dropout)
        if only is None:
            return stage(ModernLayer.after_attention, compiles, hidden)(self, hidden, context)
        # As many as are masked, which changes: compiled, each number would be compiled anew.
        return self.after_attention(tokens.choose(hidden, only), tokens.choose(context, only))

    def before_attention(self, hidden: Tensor, turn: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, turned, and values (...,heads,D) of states (...,H)."""
        # Rows of the fused weight are Q, then K, then V, each of `heads` blocks.
        states = self.qkv(self.attention_norm(hidden)).unflatten(-1, (3, self.heads, -1))
        query, key = rotate(states[..., :2, :, :], turn).unbind(-3)
        return query, key, states[..., 2, :, :]

    def after_attention(self, hidden: Tensor, context: Tensor) -> Tensor:
        """The layer's output (...,H) of its input and the context, (...,H) both."""
        hidden = hidden + self.dropout(self.attention_output(context))
        inner, gate = self.ffn_in(self.ffn_norm(hidden)).chunk(2, -1)
        found: Tensor = hidden + self.ffn_out(self.dropout(F.gelu(inner) * gate))
        return found


class ModernEncoder(nn.Module):
    """Word embeddings, projected to H where their width is another and normalised; layers; a last LayerNorm.

    Args:
        size: layers, widths and heads; ``ffn`` is the inner width of the gated block.
        config: width E of the input, dropout shares and settings of the architecture.
    """

    def __init__(self, size: EncoderSize, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.head_width = size.hidden // size.heads
        self.project: nn.Linear | None = None
        if config.embedding != size.hidden:
            # So that projected embeddings are as large as the table's, and the norm's epsilon stays small beside them.
            self.project = Dense(config.embedding, size.hidden, fan_in=True)
        self.norm = norm(size.hidden, config)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(ModernLayer(size, config, index) for index in range(size.layers))
        self.thetas = {layer.theta for layer in self.layers if isinstance(layer, ModernLayer)}
        self.final_norm = norm(size.hidden, config)

    def forward(
        self, embedded: Tensor, layout: Layout, depths: Sequence[int] = (), only: Tensor | None = None
    ) -> Hidden:
        """Encode word embeddings (B,S,E); attention stays inside a segment of the layout.

        The states after the last layer have the last norm, those of other ``depths`` have none.
        """
        count = len(self.layers)
        assert only is None or count not in depths, "states of the last layer at all positions are wanted"
        tokens = tokens_of(layout, embedded.dtype, self.head_width, self.config, self.training)
        hidden = tokens.enter(embedded)
        hidden = hidden if self.project is None else self.project(hidden)
        hidden = self.dropout(self.norm(hidden))
        at = {0: tokens.leave(hidden)} if 0 in depths else {}
        turns = {theta: rotation(tokens.positions, self.head_width, theta) for theta in self.thetas}
        for depth, layer in enumerate(self.layers, 1):
            chosen = only if depth == count else None
            hidden = run_layer(layer, self.config, hidden, tokens, turns[layer.theta], chosen)
            if depth in depths:
                at[depth] = tokens.leave(hidden)
        last = self.final_norm(hidden)
        last = last if only is not None else tokens.leave(last)
        if count in depths:
            at[count] = last
        return Hidden(last, at)

    @torch.no_grad()
    def attend_to_neighbours(self) -> None:
        """Give the first layer's heads, four of them at most, queries and keys of
        :func:`rotary_neighbour_attention`, which read the table's last column."""
        layer = cast(ModernLayer, self.layers[0])
        width = layer.qkv.in_features
        for head, (query, key) in enumerate(rotary_neighbour_attention(width, layer.heads, layer.theta)):
            first = head * len(query)
            layer.qkv.weight[first : first + len(query)] = query
            layer.qkv.weight[width + first : width + first + len(key)] = key


def norm(hidden: int, config: ModelConfig) -> nn.LayerNorm:
    """A LayerNorm of the architecture, without bias."""
    return nn.LayerNorm(hidden, eps=config.architecture.layer_norm_eps, bias=False)


def output_scale(size: EncoderSize) -> float:
    """Of the start of matrices that end a block, 1/sqrt(2 layers): the sum of all blocks is then as large as one."""
    return float((2 * size.layers) ** -0.5)
