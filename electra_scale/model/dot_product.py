"""Scaled dot-product attention in the form that is quickest on the device.

On a processor torch works in 16 bits several times slower than in single precision, backward above all, and with
dropout it leaves its fused form. So there attention is in single precision whatever the precision of the layers, and
its dropout is :mod:`electra_scale.model.dropout`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from electra_scale.model.dropout import drop, has_own


def precision_of_attention(states: Tensor) -> torch.dtype:
    """Precision in which attention of these queries, keys or values works, and which its mask must have."""
    return torch.promote_types(states.dtype, torch.float32) if states.device.type == "cpu" else states.dtype


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, share: float) -> Tensor:
    """Context (B,heads,Q,D) of queries (B,heads,Q,D), keys and values (B,heads,K,D), in their precision.

    Args:
        mask: what is added to scores, to be broadcast to (B,heads,Q,K), in the :func:`precision_of_attention`.
        share: of the weights that are dropped, in [0, 1).
    """
    given, precision = query.dtype, precision_of_attention(query)
    query, key, value = query.to(precision), key.to(precision), value.to(precision)
    if share == 0 or not has_own(query):
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=share)
    else:
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        if mask is not None:
            scores = scores + mask
        context = drop(scores.softmax(-1), share) @ value
    return context.to(given)
