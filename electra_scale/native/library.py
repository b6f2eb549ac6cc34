"""C that is compiled where it is used, kept for later processes, and called by ctypes.

The compiler is ``CC``, or ``cc``. What it makes is kept in ``XDG_CACHE_HOME`` (``~/.cache``), under a name that tells
source, command and processor, since code for one processor need not run on another that shares the folder. OpenMP's
loops are shared out among torch's own threads.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

_FLAGS = ["-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
_LONGEST = 60
"""Seconds that the compiler may take; it takes less than one."""

_WHAT_A_PROCESSOR_IS = ("vendor_id", "cpu family", "model", "flags", "CPU ", "Features")


class Unavailable(Exception):
    """Why there is no native code, in a line."""


def library(source: Path) -> ctypes.CDLL:
    """The functions of a C file.

    Raises:
        Unavailable: there is no C compiler, or what it makes cannot be loaded.
    """
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    made_of = (source.read_bytes(), repr(compiler + _FLAGS).encode(), _processor())
    name = f"{source.stem}-{hashlib.sha256(b'|'.join(made_of)).hexdigest()[:24]}.so"
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "electra-scale"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / name
        if not path.exists():
            _compile(compiler, source, path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, Unavailable):
        # No home, a disk that is full or read-only, a damaged file: once more, for this process alone.
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            _compile(compiler, source, path)
            try:
                return ctypes.CDLL(str(path))
            except OSError as error:
                raise Unavailable(str(error)) from error


def _compile(compiler: list[str], source: Path, path: Path) -> None:
    """To a name of its own first, since other ranks do the same."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="compiling-") as scratch:
        code, made = str(Path(scratch) / "code.o"), Path(scratch) / path.name
        # OpenMP's runtime is left out of the link: the one that torch has loaded is found when the code is.
        for step in (
            [*compiler, *_FLAGS, "-c", str(source), "-o", code],
            [*compiler, "-shared", code, "-o", str(made)],
        ):
            try:
                ended = subprocess.run(step, capture_output=True, text=True, timeout=_LONGEST, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise Unavailable(f"{compiler[0]}: {error}") from error
            if ended.returncode != 0:
                said = (ended.stderr.strip() or f"code {ended.returncode}").splitlines()[0]
                raise Unavailable(f"{compiler[0]}: {said}")
        made.replace(path)


def _processor() -> bytes:
    """What a processor is, so far as it tells which code it can run."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return repr(os.uname()).encode()
    return "\n".join(line for line in first.splitlines() if line.startswith(_WHAT_A_PROCESSOR_IS)).encode()
