"""The element-wise chain of a tile as Triton's kernels: one sweep where torch's operations take ten.

Imported only where Triton is there. Tiles are float32 and may be any rows of a larger buffer; the products they begin
with are torch's. A kernel takes ``_ROWS`` positions and goes over their tokens by blocks of whole strips.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_scale.corruption.tile_kernels import ScoreParts

_ROWS = 1
"""Positions of a program, a power of two. A row of a large vocabulary is work enough for one."""

_BLOCK = 2048
"""Tokens that a program holds at a time, a power of two: at least a strip, and at least as many as it has threads.

Tiles are overwritten in place. Of several threads with one token, some might read what another has written by then.
"""

_WARPS = 8
"""Of a program, each of 32 threads."""

_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
_LOWEST: tl.constexpr = tl.constexpr(-3.4028234663852886e38)
"""The least finite float32."""

_FINITE: tl.constexpr = tl.constexpr(-1e30)
_HIGHEST: tl.constexpr = tl.constexpr(88.0)
"""As in hp_loss: exp of more overflows float32."""


@triton.jit
def _score(
    product: tl.tensor,
    bias: tl.tensor,
    offset: tl.tensor,
    special: tl.tensor,
    place: tl.tensor,
    added: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    there: tl.tensor,
    used: tl.tensor,
    product_stride: tl.tensor,
    added_stride: tl.tensor,
) -> tl.tensor:
    """product + bias + offset, ``special`` at each row's ``place``, then ``added``; -inf where nothing is used."""
    if product is not None:
        score = tl.load(product + row * product_stride + column, mask=used, other=float("-inf"))
    else:
        score = tl.where(used, 0.0, float("-inf"))
    if bias is not None:
        score += tl.load(bias + column, mask=used, other=0.0).to(tl.float32)
    if offset is not None:
        score += tl.load(offset + row, mask=there, other=0.0).to(tl.float32)
    if special is not None:
        here = used & (column == tl.load(place + row, mask=there, other=-1))
        score = tl.where(here, tl.load(special + row, mask=there, other=0.0).to(tl.float32), score)
    if added is not None:
        score += tl.load(added + row * added_stride + column, mask=used, other=0.0)
    return score


@triton.jit
def _exponentials(
    product: tl.tensor,
    bias: tl.tensor,
    offset: tl.tensor,
    special: tl.tensor,
    place: tl.tensor,
    added: tl.tensor,
    out: tl.tensor,
    top: tl.tensor,
    sums: tl.tensor,
    relative: tl.tensor,
    spread: tl.tensor,
    in_tile: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    width: tl.tensor,
    product_stride: tl.tensor,
    added_stride: tl.tensor,
    out_stride: tl.tensor,
    relative_stride: tl.tensor,
    sums_stride: tl.tensor,
    ROWS: tl.constexpr,
    STRIPS: tl.constexpr,
    STRIP: tl.constexpr,
) -> None:
    """exp(score - top) and what it sums to. The second loop finds in the cache what the first has read."""
    first = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = first[:, None, None]
    there = row < rows
    strip = tl.arange(0, STRIPS)
    inside = (strip[:, None] * STRIP + tl.arange(0, STRIP)[None, :])[None, :, :]
    if in_tile is not None:
        # Before anything is written over it.
        at = tl.load(place + first, mask=first < rows, other=-1)
        found = (at >= 0) & (at < columns)
        own = tl.load(product + first * product_stride + at, mask=found, other=0.0)
        own += tl.load(bias + at, mask=found, other=0.0).to(tl.float32)
        tl.store(in_tile + first, own, mask=found)
    most = tl.full((ROWS, STRIPS, STRIP), float("-inf"), tl.float32)
    for begin in range(0, columns, STRIPS * STRIP):
        column = begin + inside
        used = there & (column < columns)
        score = _score(
            product, bias, offset, special, place, added, row, column, there, used, product_stride, added_stride
        )
        most = tl.maximum(most, score)
    # A tile of nothing but -inf must give zeros, not the NaN of -inf - -inf.
    highest = tl.maximum(tl.max(tl.max(most, 2), 1), _LOWEST)
    total = tl.zeros((ROWS,), tl.float32)
    entropic = tl.zeros((ROWS,), tl.float32)
    for begin in range(0, width, STRIPS * STRIP):
        column = begin + inside
        used = there & (column < columns)
        score = _score(
            product, bias, offset, special, place, added, row, column, there, used, product_stride, added_stride
        )
        score -= highest[:, None, None]
        exponential = tl.where(used, tl.exp2(score * _LOG2_E), 0.0)
        tl.store(out + row * out_stride + column, exponential, mask=there & (column < width))
        if relative is not None:
            tl.store(relative + row * relative_stride + column, score, mask=used)
        of_strips = tl.sum(exponential, 2)
        number = begin // STRIP + strip[None, :]
        tl.store(
            sums + first[:, None] * sums_stride + number,
            of_strips,
            mask=(first[:, None] < rows) & (number < width // STRIP),
        )
        total += tl.sum(of_strips, 1)
        if spread is not None:
            # Where the exponential is 0 its product with -inf must be 0 too.
            entropic += tl.sum(tl.sum(tl.where(used, tl.maximum(score, _FINITE), 0.0) * exponential, 2), 1)
    # A maximum passes over what is not a number; the sum does not.
    tl.store(top + first, tl.where(total != total, total, highest), mask=first < rows)
    if spread is not None:
        tl.store(spread + first, entropic, mask=first < rows)


@triton.jit
def _store_sums(
    values: tl.tensor,
    sums: tl.tensor,
    row: tl.tensor,
    strip: tl.tensor,
    rows: tl.tensor,
    strips: tl.tensor,
    sums_stride: tl.tensor,
) -> None:
    """The sums of strips of values (rows, strips, tokens), at numbers ``row`` and ``strip``."""
    there = (row[:, None] < rows) & (strip[None, :] < strips)
    tl.store(sums + row[:, None] * sums_stride + strip[None, :], tl.sum(values, 2), mask=there)


@triton.jit
def _hardness_of(score: tl.tensor, floor: tl.tensor, RMS: tl.constexpr) -> tl.tensor:
    """softplus(score) = max(score, 0) + log(1 + exp(-|score|)), its root with ``RMS``, plus the floor."""
    score = tl.where(score > _HIGHEST, _HIGHEST, score)
    small = tl.exp2(-tl.abs(score) * _LOG2_E)
    # log(1 + y) = 2 artanh(y / (2 + y)), whose argument is at most 1/3: nothing cancels however small y is.
    half = tl.div_rn(small, 2.0 + small)
    square = half * half
    series = 1 / 7 + square * (1 / 9 + square * (1 / 11 + square * (1 / 13 + square * (1 / 15))))
    series = square * (1 / 3 + square * (1 / 5 + square * series))
    hardness = tl.where(score < 0, 0.0, score) + 2.0 * (half + half * series)
    if RMS:
        hardness = tl.sqrt_rn(hardness)
    return hardness + floor


@triton.jit
def _hardened(
    product: tl.tensor,
    offset: tl.tensor,
    special: tl.tensor,
    place: tl.tensor,
    unit: tl.tensor,
    exponentials: tl.tensor,
    out: tl.tensor,
    sums: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    width: tl.tensor,
    product_stride: tl.tensor,
    exponentials_stride: tl.tensor,
    out_stride: tl.tensor,
    sums_stride: tl.tensor,
    floor: tl.tensor,
    RMS: tl.constexpr,
    ROWS: tl.constexpr,
    STRIPS: tl.constexpr,
    STRIP: tl.constexpr,
) -> None:
    first = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = first[:, None, None]
    there = row < rows
    strip = tl.program_id(1) * STRIPS + tl.arange(0, STRIPS)
    column = (strip[:, None] * STRIP + tl.arange(0, STRIP)[None, :])[None, :, :]
    used = there & (column < columns)
    score = _score(product, None, offset, special, place, None, row, column, there, used, product_stride, 0)
    # The unit by the very same arithmetic: where hardness is constant the tilt is 1 and not about 1.
    own = _hardness_of(tl.load(unit + row, mask=there, other=0.0).to(tl.float32), floor, RMS)
    exponential = tl.load(exponentials + row * exponentials_stride + column, mask=used, other=0.0)
    tilted = tl.where(used, exponential * tl.div_rn(_hardness_of(score, floor, RMS), own), 0.0)
    tl.store(out + row * out_stride + column, tilted, mask=there & (column < width))
    _store_sums(tilted, sums, first, strip, rows, width // STRIP, sums_stride)


@triton.jit
def _softened(
    relative: tl.tensor,
    out: tl.tensor,
    sums: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    width: tl.tensor,
    relative_stride: tl.tensor,
    out_stride: tl.tensor,
    sums_stride: tl.tensor,
    temperature: tl.tensor,
    ROWS: tl.constexpr,
    STRIPS: tl.constexpr,
    STRIP: tl.constexpr,
) -> None:
    first = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = first[:, None, None]
    there = row < rows
    strip = tl.program_id(1) * STRIPS + tl.arange(0, STRIPS)
    column = (strip[:, None] * STRIP + tl.arange(0, STRIP)[None, :])[None, :, :]
    used = there & (column < columns)
    score = tl.load(relative + row * relative_stride + column, mask=used, other=float("-inf"))
    score = tl.div_rn(score, tl.zeros_like(score) + temperature)
    softened = tl.where(used, tl.exp2(score * _LOG2_E), 0.0)
    tl.store(out + row * out_stride + column, softened, mask=there & (column < width))
    _store_sums(softened, sums, first, strip, rows, width // STRIP, sums_stride)


@triton.jit
def _summed(
    tile: tl.tensor,
    sums: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    width: tl.tensor,
    tile_stride: tl.tensor,
    sums_stride: tl.tensor,
    ROWS: tl.constexpr,
    STRIPS: tl.constexpr,
    STRIP: tl.constexpr,
) -> None:
    first = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = first[:, None, None]
    there = row < rows
    strip = tl.program_id(1) * STRIPS + tl.arange(0, STRIPS)
    column = (strip[:, None] * STRIP + tl.arange(0, STRIP)[None, :])[None, :, :]
    at = tile + row * tile_stride + column
    value = tl.load(at, mask=there & (column < columns), other=0.0)
    tl.store(at, value, mask=there & (column < width))
    _store_sums(value, sums, first, strip, rows, width // STRIP, sums_stride)


def exponentials(
    parts: ScoreParts,
    out: Tensor,
    strip: int,
    relative: Tensor | None = None,
    spread: Tensor | None = None,
    in_tile: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    top, sums = _rows_and_sums(out, strip)
    shape = _shape(strip)
    _launch(
        _exponentials,
        (_programs(len(out)),),
        *_pointers(parts),
        out,
        top,
        sums,
        relative,
        spread,
        in_tile,
        len(out),
        parts.columns,
        out.shape[1],
        _stride(parts.product),
        _stride(parts.added),
        out.stride(0),
        _stride(relative),
        sums.stride(0),
        **shape,
    )
    return top, sums


def hardened(
    parts: ScoreParts, unit: Tensor, rms: bool, floor: float, exponentials: Tensor, out: Tensor, strip: int
) -> Tensor:
    product, _, offset, special, place, _ = _pointers(parts)
    _, sums = _rows_and_sums(out, strip)
    shape = _shape(strip)
    _launch(
        _hardened,
        (_programs(len(out)), triton.cdiv(out.shape[1], shape["STRIPS"] * strip)),
        product,
        offset,
        special,
        place,
        unit.contiguous(),
        exponentials,
        out,
        sums,
        len(out),
        parts.columns,
        out.shape[1],
        _stride(product),
        exponentials.stride(0),
        out.stride(0),
        sums.stride(0),
        float(floor),
        RMS=rms,
        **shape,
    )
    return sums


def softened(relative: Tensor, temperature: float, out: Tensor, strip: int) -> Tensor:
    _, sums = _rows_and_sums(out, strip)
    shape = _shape(strip)
    _launch(
        _softened,
        (_programs(len(out)), triton.cdiv(out.shape[1], shape["STRIPS"] * strip)),
        relative,
        out,
        sums,
        len(out),
        relative.shape[1],
        out.shape[1],
        relative.stride(0),
        out.stride(0),
        sums.stride(0),
        float(temperature),
        **shape,
    )
    return sums


def summed(tile: Tensor, columns: int, strip: int) -> Tensor:
    _, sums = _rows_and_sums(tile, strip)
    shape = _shape(strip)
    _launch(
        _summed,
        (_programs(len(tile)), triton.cdiv(tile.shape[1], shape["STRIPS"] * strip)),
        tile,
        sums,
        len(tile),
        columns,
        tile.shape[1],
        tile.stride(0),
        sums.stride(0),
        **shape,
    )
    return sums


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **shape: Any) -> None:
    out = next(argument for argument in arguments if isinstance(argument, Tensor))
    if 0 in grid:
        return
    with torch.cuda.device_of(out):
        # Products and sums are rounded one by one, so that equal scores have equal hardness wherever they stand.
        kernel[grid](*arguments, **shape, num_warps=_WARPS, enable_fp_fusion=False)


def _programs(rows: int) -> int:
    return -(-rows // _ROWS)


def _shape(strip: int) -> dict[str, int]:
    return {"ROWS": _ROWS, "STRIPS": _BLOCK // strip, "STRIP": strip}


def _rows_and_sums(out: Tensor, strip: int) -> tuple[Tensor, Tensor]:
    return out.new_empty(len(out)), out.new_empty((len(out), out.shape[1] // strip))


def _pointers(parts: ScoreParts) -> tuple[Tensor | None, ...]:
    """Vectors are read one after the other; a product's rows may lie apart, and its columns may not."""
    vectors = (parts.bias, parts.offset, parts.special, parts.place)
    return (parts.product, *(None if part is None else part.contiguous() for part in vectors), parts.added)


def _stride(tile: Tensor | None) -> int:
    return 0 if tile is None else tile.stride(0)
