"""Scaled dot-product attention in the form that is quickest on the device.

On a processor torch's fused attention works in 16 bits slower than its products would, without instructions for them
several times slower than in single precision, and with dropout it leaves its fused form. So there attention is written
out, with the dropout of :mod:`electra_scale.model.dropout`, where weights are dropped, and in bf16 where the processor
has instructions for it and rows are short; longer rows go by :mod:`electra_scale.model.attention.chunks` with these
instructions. Otherwise it is the fused one, in single precision whatever the precision of the layers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from electra_scale.model.dropout import drop, has_own

_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Of x86, with or without tiles, and of ARM; what torch calls them."""

_MOST_KEYS = 512
"""Up to which scores in bf16, all of them kept, are quicker than torch's fused attention in single precision."""

_FEWEST_KEYS = 512
"""From which on attention of whole rows in bf16 goes by chunks. There it takes 2/3 of the time of all scores kept with
12 heads, as much with 4, and 1.6 times with one, whose attention is little; with 384 keys, more. Fused takes twice."""


def processor_has_bf16() -> bool:
    """Whether this machine's processor multiplies matrices in bf16 by itself."""
    # Older torch cannot tell; single precision is right everywhere.
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name) for name in _CPU_BF16)


@functools.cache
def _has_products(precision: torch.dtype) -> bool:
    return precision == torch.bfloat16 and processor_has_bf16()


def pays_in_chunks(states: Tensor, keys: int) -> bool:
    """Whether attention of whole rows with so many ``keys`` is quicker by
    :mod:`electra_scale.model.attention.chunks`."""
    return has_own(states) and _has_products(states.dtype) and keys >= _FEWEST_KEYS


def precision_of_attention(states: Tensor, keys: int, share: float) -> torch.dtype:
    """Precision in which queries, keys or values attend to so many ``keys``, and which their mask must have.

    Args:
        share: of the weights that are dropped, in [0, 1).
    """
    if states.device.type != "cpu":
        return states.dtype
    if has_own(states) and _has_products(states.dtype) and (share > 0 or keys <= _MOST_KEYS):
        return states.dtype
    return torch.promote_types(states.dtype, torch.float32)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, share: float) -> Tensor:
    """Context (B,heads,Q,D) of queries (B,heads,Q,D), keys and values (B,heads,K,D), in their precision.

    Args:
        mask: what is added to scores, to be broadcast to (B,heads,Q,K), in the :func:`precision_of_attention`.
        share: of the weights that are dropped, in [0, 1).
    """
    given, precision = query.dtype, precision_of_attention(query, key.shape[-2], share)
    query, key, value = query.to(precision), key.to(precision), value.to(precision)
    if not has_own(query) or (share == 0 and precision.itemsize > 2):
        fused = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=share)
        return fused.to(given)
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    if mask is not None:
        scores = scores + mask
    # In 16 bits too, torch takes exponentials and their sum in single precision.
    return (drop(scores.softmax(-1), share) @ value).to(given)
