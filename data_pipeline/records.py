"""The work folder of a build: what each task has finished, under names that a restart finds again."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.atomic import replacing
from data_pipeline.errors import UserError

WORK_FOLDER = ".build"
_INFO = "info"


@dataclasses.dataclass(frozen=True)
class Record:
    """Arrays and a small JSON value that one task left behind."""

    arrays: dict[str, npt.NDArray[Any]]
    info: dict[str, Any]


def save_record(path: Path, arrays: dict[str, npt.NDArray[Any]], info: dict[str, Any]) -> None:
    """Write a record atomically: once it exists, the task is finished."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **{_INFO: np.array(json.dumps(info))}, **arrays)  # type: ignore[arg-type]


def load_record(path: Path) -> Record:
    """Read a record."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name != _INFO}
        return Record(arrays, json.loads(str(file[_INFO])))


@dataclasses.dataclass(frozen=True)
class WorkFolder:
    """Names inside ``.build/<key>`` of a store."""

    path: Path

    @property
    def merged(self) -> Path:
        """(documents,) uint8 verdicts over all tasks, see ``merge``."""
        return self.path / "merged.npy"

    @property
    def tokenizer(self) -> Path:
        """``tokenizer.json`` of this build."""
        return self.path / "tokenizer.json"

    @property
    def shards(self) -> Path:
        """Folder of finished shards that aren't in the store yet."""
        return self.path / "shards"

    def read(self, task: int) -> Path:
        """Record of a task's reading."""
        return self.path / f"read-{task:06d}.npz"

    def sample(self, task: int) -> Path:
        """A task's share of the text that the vocabulary is trained on."""
        return self.path / f"sample-{task:06d}.json"

    def tokens(self, task: int) -> Path:
        """Record of a task's tokenization."""
        return self.path / f"tokens-{task:06d}.npz"


def open_work_folder(store: Path, key: str) -> WorkFolder:
    """Make or find the work folder of the build with this key, and drop those of abandoned builds."""
    base = store / WORK_FOLDER
    for other in base.iterdir():
        if other.is_dir() and other.name != key:
            shutil.rmtree(other)
    work = WorkFolder(base / key)
    work.shards.mkdir(parents=True, exist_ok=True)
    for leftover in [*work.path.glob(".*.tmp"), *work.shards.glob(".*.tmp")]:
        leftover.unlink(missing_ok=True)
    return work


@contextmanager
def store_lock(store: Path) -> Iterator[None]:
    """Hold the store for one build; the lock ends with the process, however it ends.

    Raises:
        UserError: another build holds it, or the folder can't be made.
    """
    try:
        (store / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(store / WORK_FOLDER / "lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise UserError(f"cannot make the store {store}: {error.strerror}; check out and its permissions") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another build is writing to {store}: wait for it, or choose another out") from None
        except OSError as error:
            # Some network file systems have no locks; renames keep files whole there all the same.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(descriptor)
