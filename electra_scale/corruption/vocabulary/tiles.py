"""The M x V scores in tiles: some positions by some tokens at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from electra_scale.model.attention.dot_product import processor_has_bf16


@dataclass(frozen=True)
class Tiling:
    """Sizes of the tiles: at most ``columns`` tokens and ``rows`` positions each; the tiles that a block of positions
    keeps may take ``memory`` bytes."""

    columns: int
    rows: int
    memory: int


ON_CPU = Tiling(columns=2048, rows=1024, memory=96 << 20)
"""A tile stays near a core's cache, and is large enough for fast matrix products."""

ON_DEVICE = Tiling(columns=1 << 20, rows=1 << 14, memory=1 << 30)
"""Each operation is a launch, which takes longer than a small tile's arithmetic: all tokens at once, and as many
positions as the memory has room for."""


def tiling_of(device_type: str) -> Tiling:
    """The tiling for a device of torch's ``device_type``."""
    return ON_CPU if device_type == "cpu" else ON_DEVICE


_LOG2_E = 1.4426950408889634


def ranges(length: int, most: int) -> list[slice]:
    """[0, ``length``) in equal ranges of at most ``most``, the last one perhaps shorter."""
    return [slice(begin, min(begin + most, length)) for begin in range(0, length, most)]


def score_tile(features: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """The generator's scores (R, C) from features (R, E), word embeddings (C, E) and bias (C,), at least float32.

    Features and embeddings of 16 bits are taken as they are; their products are exact in float32, and so are summed.
    """
    if out is None:
        exact = torch.promote_types(features.dtype, torch.float32)
        out = features.new_empty((len(features), len(weight)), dtype=exact)
    product = score_product(features, weight, out)
    # Added afterwards: addmm would first fill the tile with the bias, which takes a CPU as long as half the product.
    return (product if product is out else out.copy_(product)).add_(bias)


def score_product(features: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    """Scores (R, C) before the bias, at least float32: in ``out``, or in memory that the device's product takes."""
    exact = torch.promote_types(features.dtype, torch.float32)
    if features.dtype == weight.dtype != exact and _sums_in_float32(features.device.type, features.dtype):
        return torch.mm(features, weight.T, out_dtype=exact)
    with _exact_products_of(features.dtype, weight):
        return torch.mm(features.to(exact), weight.to(exact).T, out=out)


@contextmanager
def _exact_products_of(precision: torch.dtype, weight: Tensor) -> Iterator[None]:
    """Inside, products of float32 whose numbers are of 16 bits take a processor's instructions for bf16, where it has
    them: it multiplies such numbers exactly and sums in float32, in half the time."""
    if weight.device.type != "cpu" or not precision == weight.dtype == torch.bfloat16 or not _has_bf16():
        yield
        return
    # Torch puts an object in the module's place.
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@cache
def _has_bf16() -> bool:
    # Older torch has no such setting.
    return processor_has_bf16() and hasattr(torch.backends.mkldnn, "matmul")


@cache
def _sums_in_float32(device: str, dtype: torch.dtype) -> bool:
    """Whether the device can multiply matrices of 16 bits without rounding the result to 16 bits."""
    one = torch.ones((8, 8), dtype=dtype, device=device)
    try:
        torch.mm(one, one, out_dtype=torch.float32)
    except (RuntimeError, TypeError):
        return False
    return True


def exponential(tile: Tensor) -> Tensor:
    """exp in place: by powers of two, which take half the time on a CPU."""
    return tile.mul_(_LOG2_E).exp2_()


def scores_of(features: Tensor, weight: Tensor, bias: Tensor, tokens: Tensor) -> Tensor:
    """The generator's score (M,) of one token for each position, O(M E), as exact as :func:`score_tile`'s."""
    exact = torch.promote_types(features.dtype, torch.float32)
    rows = torch.nn.functional.embedding(tokens, weight).to(exact)
    return (features.to(exact) * rows).sum(-1) + bias[tokens]


def pick(tile: Tensor, columns: slice, tokens: Tensor, otherwise: Tensor) -> Tensor:
    """The values (R,) of a tile at one token of each row; ``otherwise`` (R,) where it is not in the tile's columns."""
    place = tokens - columns.start
    inside = (place >= 0) & (place < tile.shape[1])
    found = tile.gather(1, place.clamp(0, tile.shape[1] - 1)[:, None])[:, 0]
    return torch.where(inside, found, otherwise)


def put(tile: Tensor, columns: slice, tokens: Tensor, values: Tensor) -> None:
    """Write ``values`` (R,) at one token of each row, where that token lies in the tile's columns."""
    place = tokens[:, None] - columns.start
    inside = (place >= 0) & (place < tile.shape[1])
    place = place.clamp(0, tile.shape[1] - 1)
    tile.scatter_(1, place, torch.where(inside, values[:, None], tile.gather(1, place)))
