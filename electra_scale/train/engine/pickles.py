"""The files of a checkpoint are pickles, which are programs: what theirs may call, and nothing else is called.

What each file would call is listed before any of them is loaded, without running it, so that the checkpoint is refused
as a whole and the file is named. While they are loaded, torch's restricted unpickler holds DeepSpeed to the same names.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO

import torch

from data_pipeline.errors import OneRankError, UserError
from electra_scale.cluster.ranks import Ranks
from electra_scale.train.checkpoint import checksums
from electra_scale.train.engine.lean_deepspeed import LossScaler, ZeroStageEnum, fragment_address

_OF_DEEPSPEED = (LossScaler, ZeroStageEnum, fragment_address)
"""Classes that DeepSpeed's checkpoints hold; each has numbers as its only content."""

_STORAGES = ("BFloat16", "Bool", "Byte", "Double", "Float", "Half", "Int", "Long")

KNOWN = frozenset(
    {
        "collections.OrderedDict",
        "torch.Size",
        "torch._utils._rebuild_tensor_v2",
        *(f"torch.{name}Storage" for name in _STORAGES),
        *(f"{one.__module__}.{one.__qualname__}" for one in _OF_DEEPSPEED),
    }
)
"""All that a checkpoint of any kind calls: ZeRO-1 and 2, float32 and bf16, universal, replicated parts, draws ahead."""

_READ = ("*.pt", "mp_rank_*", "layer_*", "zero_pp_rank_*", "bf16_zero_pp_rank_*")
"""Names that this program or DeepSpeed would look for in a checkpoint's folder."""

_FORCE, _FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"

_ZIP = b"PK\x03\x04"
_PICKLES_BEFORE_DATA = 5
"""In a file without a zip around it, which torch.save writes where DeepSpeed's JSON asks for that: magic number,
version, sizes of numbers, the object, names of its tensors' data."""


def refuse_unsafe(folder: Path, ranks: Ranks) -> None:
    """Raise UserError, on every rank, if a file in a checkpoint's folder is not one that this program wrote, as far as
    names tell, or would call what no checkpoint calls. Ranks share the reading; nothing is loaded.

    A folder without a list of its files (an earlier release wrote none) is held to the second rule only.
    """
    reasons = ranks.gather(_reason(folder, ranks.rank, ranks.size))
    reason = next((each for each in reasons if each is not None), None)
    if reason is not None:
        raise UserError(
            f"checkpoint {folder} is refused and nothing of it was loaded: {reason}. Take a copy that you trust, and "
            "look who can write there (docs/security.md)"
        )


def _reason(folder: Path, part: int, parts: int) -> str | None:
    listed: set[str] | None = None
    # A damaged list is the business of whoever compares checksums.
    with suppress(ValueError, UserError):
        listed = {name for name in checksums.read_list(folder) if _is_read(name)}
    for name in sorted({*_files(folder), *(listed or ())})[part::parts]:
        if listed is not None and name not in listed:
            return f"{name} is not in {checksums.LIST}, so no save of a run left it there; remove it if it is not yours"
        try:
            strange = calls(folder / name) - KNOWN
        except ValueError as error:
            return f"what {name} would call when it is loaded cannot be listed ({error})"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if strange:
            return f"{name} would call {', '.join(sorted(strange))} when it is loaded"
    return None


def _files(folder: Path) -> Iterator[str]:
    """Files below a folder that something would load. In a checkpoint its universal form is passed over: that has a
    list of its own, and is looked at when it is needed."""
    for parent, folders, names in os.walk(folder):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if not name.startswith("universal")]
        yield from ((Path(parent) / name).relative_to(folder).as_posix() for name in names if _is_read(name))


def _is_read(name: str) -> bool:
    return any(fnmatch(PurePosixPath(name).name, pattern) for pattern in _READ)


def calls(path: Path) -> set[str]:
    """Names of what loading a file that torch.save wrote would look up and call. Nothing is loaded or run.

    Only the pickles are read, not the tensors' data. Raises ValueError if they cannot be listed.
    """
    with open(path, "rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            file.seek(0)
            return {name for _ in range(_PICKLES_BEFORE_DATA) for name in _names(file)}
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".pkl")]
            if len(members) != 1:
                raise ValueError(f"it holds {len(members)} pickles, not one")
            with archive.open(members[0]) as opened:
                return _names(opened)
    except (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(str(error)) from error


def _names(file: IO[bytes]) -> set[str]:
    """Names in the next pickle of a file."""
    found: set[str] = set()
    strings = ["?", "?"]
    try:
        for code, argument, _ in pickletools.genops(file):
            if code.name in ("GLOBAL", "INST"):
                found.add(str(argument).replace(" ", ".", 1))
            elif code.name == "STACK_GLOBAL":
                # The strings may come from elsewhere, so this is for the message and never a known name.
                found.add(f"{'.'.join(strings)} (a name made while loading)")
            elif code.name.startswith("EXT"):
                found.add(f"entry {argument} of the extension registry")
            elif isinstance(argument, str):
                strings = [strings[1], argument]
    except (ValueError, IndexError, UnicodeError, OverflowError, MemoryError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return found


@contextmanager
def restricted(folder: Path) -> Iterator[None]:
    """Have every ``torch.load`` in the block, DeepSpeed's too, take no more than :data:`KNOWN` and torch's own types.

    Raises OneRankError where a file of the checkpoint ``folder`` asks for more.
    """
    with ExitStack() as closing:
        closing.enter_context(_environment({_FORCE: "1", _FORCE_NOT: None}))
        # A block inside another one must leave that one's classes where they are.
        known = torch.serialization.get_safe_globals()
        closing.enter_context(torch.serialization.safe_globals([one for one in _OF_DEEPSPEED if one not in known]))
        try:
            yield
        except pickle.UnpicklingError as error:
            reason = str(error).partition("\n")[0]
            raise OneRankError(f"checkpoint {folder} is refused: torch does not load it ({reason})") from error


@contextmanager
def _environment(values: dict[str, str | None]) -> Iterator[None]:
    """Variables set, or with None not set, while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
