"""The element-wise chain of a tile as native code for this processor: native_kernels.c.

Each row is the same bits on any number of threads.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from electra_scale.corruption.tile_kernels import ScoreParts
from electra_scale.native.library import library

_SOURCE = Path(__file__).with_suffix(".c")


def exponentials(
    parts: ScoreParts,
    out: Tensor,
    strip: int,
    relative: Tensor | None = None,
    spread: Tensor | None = None,
    in_tile: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    top, sums = out.new_empty(len(out)), _strips(out, strip)
    given = _Given(parts)
    _kernels().exponentials(
        *given.addresses(),
        given.address(parts.added),
        given.address(out),
        given.address(top),
        given.address(sums),
        given.address(relative),
        given.address(spread),
        given.address(in_tile),
        *(len(out), parts.columns, out.shape[1], strip),
        *(_stride(tile) for tile in (parts.product, parts.added, out, relative)),
    )
    return top, sums


def hardened(
    parts: ScoreParts, unit: Tensor, rms: bool, floor: float, exponentials: Tensor, out: Tensor, strip: int
) -> Tensor:
    sums = _strips(out, strip)
    given = _Given(parts)
    product, _, offset, special, place = given.addresses()
    _kernels().hardened(
        product,
        offset,
        special,
        place,
        given.vector(unit),
        given.address(exponentials),
        given.address(out),
        given.address(sums),
        *(len(out), parts.columns, out.shape[1], strip),
        *(_stride(tile) for tile in (parts.product, exponentials, out)),
        float(floor),
        int(rms),
    )
    return sums


def softened(relative: Tensor, temperature: float, out: Tensor, strip: int) -> Tensor:
    sums = _strips(out, strip)
    _kernels().softened(
        relative.data_ptr(),
        out.data_ptr(),
        sums.data_ptr(),
        *(len(out), relative.shape[1], out.shape[1], strip),
        *(_stride(relative), _stride(out)),
        float(temperature),
    )
    return sums


def summed(tile: Tensor, columns: int, strip: int) -> Tensor:
    sums = _strips(tile, strip)
    _kernels().summed(tile.data_ptr(), sums.data_ptr(), *(len(tile), columns, tile.shape[1], strip), tile.stride(0))
    return sums


class _Given:
    """Addresses of what a kernel reads and writes; vectors in the form that it reads live as long as this."""

    def __init__(self, parts: ScoreParts) -> None:
        self._parts = parts
        self._held: list[Tensor] = []

    def addresses(self) -> tuple[int | None, ...]:
        """Of product, bias, offset, special and place."""
        parts = self._parts
        vectors = (parts.bias, parts.offset, parts.special, parts.place)
        return (self.address(parts.product), *map(self.vector, vectors))

    def vector(self, numbers: Tensor | None) -> int | None:
        if numbers is None:
            return None
        kind = torch.float32 if numbers.is_floating_point() else torch.int64
        self._held.append(numbers.to(kind).contiguous())
        return self._held[-1].data_ptr()

    @staticmethod
    def address(tile: Tensor | None) -> int | None:
        """Of a tile whose rows may lie apart, and whose columns may not."""
        return None if tile is None else tile.data_ptr()


def _strips(out: Tensor, strip: int) -> Tensor:
    return out.new_empty((len(out), out.shape[1] // strip))


def _stride(tile: Tensor | None) -> int:
    return 0 if tile is None else tile.stride(0)


@cache
def _kernels() -> ctypes.CDLL:
    found = library(_SOURCE)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    found.exponentials.argtypes = [pointer] * 12 + [number] * 8
    found.hardened.argtypes = [pointer] * 8 + [number] * 7 + [ctypes.c_float, ctypes.c_int]
    found.softened.argtypes = [pointer] * 3 + [number] * 6 + [ctypes.c_float]
    found.summed.argtypes = [pointer] * 2 + [number] * 5
    for kernel in (found.exponentials, found.hardened, found.softened, found.summed):
        kernel.restype = None
    return found
