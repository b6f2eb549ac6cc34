"""The element-wise chain of a tile as native code for this processor: native_kernels.c, compiled where it is used.

The C compiler is ``CC``, or ``cc``. What it makes is kept in ``XDG_CACHE_HOME`` (``~/.cache``), under a name that tells
source, command and processor, since code for one processor need not run on another that shares the folder. Rows are
shared out among torch's own threads, and are the same bits on any number of them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from electra_scale.corruption.tile_kernels import ScoreParts

_FLAGS = "-O3 -march=native -fopenmp -fPIC -fno-math-errno -fno-trapping-math -ffp-contract=off"
_SOURCE = Path(__file__).with_suffix(".c")
_LONGEST = 60
"""Seconds that the compiler may take; it takes less than one."""

_WHAT_A_PROCESSOR_IS = ("vendor_id", "cpu family", "model", "flags", "CPU ", "Features")


class Unavailable(Exception):
    """Why there is no native code, in a line."""


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
    library().exponentials(
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
    library().hardened(
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
    library().softened(
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
    library().summed(tile.data_ptr(), sums.data_ptr(), *(len(tile), columns, tile.shape[1], strip), tile.stride(0))
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
def library() -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        Unavailable: there is no C compiler, or what it makes cannot be loaded.
    """
    command = [*shlex.split(os.environ.get("CC", "cc")), *_FLAGS.split()]
    made_of = (_SOURCE.read_bytes(), repr(command).encode(), _processor())
    name = f"tiles-{hashlib.sha256(b'|'.join(made_of)).hexdigest()[:24]}.so"
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "electra-scale"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / name
        if not path.exists():
            _compile(command, path)
        return _load(path)
    except (OSError, RuntimeError, Unavailable):
        # No home, a disk that is full or read-only, a damaged file: once more, for this process alone.
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            _compile(command, path)
            try:
                return _load(path)
            except OSError as error:
                raise Unavailable(str(error)) from error


def _compile(command: list[str], path: Path) -> None:
    """To a name of its own first, since other ranks do the same."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="compiling-") as scratch:
        code, made = Path(scratch) / "tiles.o", Path(scratch) / path.name
        # OpenMP's runtime is left out of the link: the one that torch has loaded is found when the code is.
        for step in (
            [*command, "-c", str(_SOURCE), "-o", str(code)],
            [command[0], "-shared", str(code), "-o", str(made)],
        ):
            try:
                ended = subprocess.run(step, capture_output=True, text=True, timeout=_LONGEST, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise Unavailable(f"{command[0]}: {error}") from error
            if ended.returncode != 0:
                said = (ended.stderr.strip() or f"code {ended.returncode}").splitlines()[0]
                raise Unavailable(f"{command[0]}: {said}")
        made.replace(path)


def _load(path: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    found.exponentials.argtypes = [pointer] * 12 + [number] * 8
    found.hardened.argtypes = [pointer] * 8 + [number] * 7 + [ctypes.c_float, ctypes.c_int]
    found.softened.argtypes = [pointer] * 3 + [number] * 6 + [ctypes.c_float]
    found.summed.argtypes = [pointer] * 2 + [number] * 5
    for kernel in (found.exponentials, found.hardened, found.softened, found.summed):
        kernel.restype = None
    return found


def _processor() -> bytes:
    """What a processor is, so far as it tells which code it can run."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return repr(os.uname()).encode()
    return "\n".join(line for line in first.splitlines() if line.startswith(_WHAT_A_PROCESSOR_IS)).encode()
