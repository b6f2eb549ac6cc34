"""The transformer encoder of BERT and ELECTRA: LayerNorm after each residual, erf GELU."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from electra_scale.recipe.model import EncoderSize, ModelConfig


def attention_mask(segment: Tensor) -> Tensor | None:
    """Which positions may attend to which: those of the same segment.

    Padding (-1) attends to padding, so that no row of the mask is empty and no softmax gives NaN. Segment
    ids must be unique in their row: two separate stretches with one id would see each other.

    Args:
        segment: (B,S) integers.

    Returns:
        (B,1,S,S) bool, True where attention is allowed; or None when everything is, which lets attention
        take its faster path. None is only looked for on the CPU: elsewhere the look would make the host
        wait for the device.
    """
    if segment.device.type == "cpu" and bool((segment == segment[:, :1]).all()):
        return None
    return (segment[:, :, None] == segment[:, None, :]).unsqueeze(1)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward block, each followed by dropout, residual and LayerNorm."""

    def __init__(self, size: EncoderSize, config: ModelConfig) -> None:
        super().__init__()
        hidden = size.hidden
        self.heads = size.heads
        self.attention_dropout = config.attention_dropout
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.attention_output = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.ffn_in = nn.Linear(hidden, size.ffn)
        self.ffn_out = nn.Linear(size.ffn, hidden)
        self.ffn_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(B,S,H) and a (B,1,S,S) bool mask or None, to (B,S,H)."""
        batch, positions, width = hidden.shape
        # Rows of the fused weight are Q, then K, then V, each of `heads` blocks.
        query, key, value = (
            self.qkv(hidden).view(batch, positions, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        context = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        context = context.transpose(1, 2).reshape(batch, positions, width)
        hidden = self.attention_norm(hidden + self.dropout(self.attention_output(context)))
        inner = F.gelu(self.ffn_in(hidden))
        return self.ffn_norm(hidden + self.dropout(self.ffn_out(inner)))


class Encoder(nn.Module):
    """A stack of :class:`EncoderLayer`, with a projection from E to H in front where the two differ.

    Args:
        size: layers, widths and heads.
        embedding: width E of the input.
        config: the model's dropout shares and LayerNorm epsilon.
    """

    def __init__(self, size: EncoderSize, embedding: int, config: ModelConfig) -> None:
        super().__init__()
        self.project = nn.Linear(embedding, size.hidden) if embedding != size.hidden else None
        self.layers = nn.ModuleList(EncoderLayer(size, config) for _ in range(size.layers))

    def forward(self, embedded: Tensor, mask: Tensor | None) -> Tensor:
        """Encode embedded tokens.

        Args:
            embedded: (B,S,E).
            mask: (B,1,S,S) bool from :func:`attention_mask`, or None where everything may be attended to.

        Returns:
            (B,S,H).
        """
        hidden = embedded if self.project is None else self.project(embedded)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden
