"""Variable-length attention in plain torch, for devices that have none of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from electra_scale.model.attention.varlen import Limits, SegmentAttention


def varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """What ``torch.nn.attention.varlen.varlen_attn`` computes, and refuses what its kernels would read wrongly."""
    tokens, _, width = query.shape
    assert query.dim() == 3
    assert query.shape == key.shape == value.shape
    assert all(part.stride(-1) == 1 for part in (query, key, value))
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    lengths = cu_seq_q.diff()
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert cu_seq_q[0] == 0
    assert cu_seq_q[-1] == tokens
    assert lengths.min() > 0
    assert lengths.max() == max_q == max_k
    index = torch.arange(tokens)
    owner = torch.searchsorted(cu_seq_q.long(), index, right=True)
    allowed = owner[:, None] == owner[None, :]
    distance = index[None, :] - index[:, None]
    left, right = window_size
    if left >= 0:
        allowed &= distance >= -left
    if right >= 0:
        allowed &= distance <= right
    scores = torch.einsum("qhd,khd->hqk", query, key) * (width**-0.5 if scale is None else scale)
    shares = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", shares, value)


IN_PLAIN_TORCH = SegmentAttention(varlen_attn, Limits((torch.float64, torch.float32), 1, 4096))
"""It in place of a device's, in the precisions that show a mistake, and for heads of any width."""
