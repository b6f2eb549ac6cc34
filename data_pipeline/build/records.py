"""What the tasks of a build have finished: small files below ``.build/<key>`` of the store's own place.

They lie where the store lies, so that on an object store any number of machines work without a shared file system
and a lost machine loses nothing that was finished.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.places.open import open_place
from data_pipeline.places.place import Place
from data_pipeline.places.scratch import scratch_folder
from data_pipeline.store.manifest import WORK_FOLDER

_INFO = "info"


@dataclasses.dataclass(frozen=True)
class Record:
    """Arrays and a small JSON value that one task left behind."""

    arrays: dict[str, npt.NDArray[Any]]
    info: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Work:
    """The files of the build with this key. Names are relative to the store; the value travels to the workers.

    ``in_place``: shards are written under their final names at once (an object store can't rename); otherwise
    they lie in the work folder until all are there.
    """

    store: str
    key: str
    in_place: bool

    @property
    def place(self) -> Place:
        """The store's place, opened once in every process."""
        return _place(self.store)

    @property
    def prefix(self) -> str:
        return f"{WORK_FOLDER}/{self.key}/"

    @property
    def decided(self) -> str:
        """What the serial step decided, as JSON; it exists once all decisions are recorded."""
        return f"{self.prefix}merged.json"

    @property
    def tokenizer(self) -> str:
        """``tokenizer.json`` of this build."""
        return f"{self.prefix}tokenizer.json"

    @property
    def encoder(self) -> str:
        """Name of the encoder that this build tokenizes with, as JSON."""
        return f"{self.prefix}encoder.json"

    def read(self, task: int) -> str:
        """Record of a task's reading."""
        return f"{self.prefix}read-{task:06d}.npz"

    def text(self, task: int) -> str:
        """A task's cleaned text, kept for the steps after reading."""
        return f"{self.prefix}text-{task:06d}.arrow"

    def decisions(self, task: int) -> str:
        """Record of the decisions on a task's documents, one byte each, see :mod:`data_pipeline.deduplicate.choose`."""
        return f"{self.prefix}verdict-{task:06d}.npz"

    def sample(self, task: int) -> str:
        """A task's share of the text that the vocabulary is trained on."""
        return f"{self.prefix}sample-{task:06d}.json"

    def tokens(self, task: int) -> str:
        """Record of a task's finished shards."""
        return f"{self.prefix}tokens-{task:06d}.npz"

    def early_shard(self, name: str) -> str:
        """Where a shard lies that may still lose documents."""
        return f"{self.prefix}early/{name}"

    def final_shard(self, name: str) -> str:
        """Where a shard lies whose bytes are final."""
        return name if self.in_place else f"{self.prefix}shards/{name}"

    def finished(self) -> set[str]:
        """The names of all files that this build has left so far, in one listing."""
        return {entry.name for entry in self.place.list(self.prefix)}

    def put_record(self, name: str, arrays: dict[str, npt.NDArray[Any]], info: dict[str, Any]) -> None:
        """Write a record atomically: once it exists, the task is finished."""
        buffer = io.BytesIO()
        np.savez(buffer, **{_INFO: np.array(json.dumps(info))}, **arrays)  # type: ignore[arg-type]
        self.place.put(name, buffer.getvalue())

    def load_record(self, name: str, arrays: Collection[str] | None = None) -> Record:
        """Read a record; of its arrays only those of these names, if there are any, since each takes its time."""
        with np.load(io.BytesIO(self.place.read(name)), allow_pickle=False) as file:
            chosen = [key for key in file.files if key != _INFO and (arrays is None or key in arrays)]
            return Record({key: file[key] for key in chosen}, json.loads(str(file[_INFO])))

    def put_json(self, name: str, value: object) -> None:
        """Write a JSON file atomically."""
        self.place.put(name, json.dumps(value).encode())

    def load_json(self, name: str) -> Any:
        """Read a JSON file."""
        return json.loads(self.place.read(name))

    @contextmanager
    def written(self, name: str) -> Iterator[Path]:
        """A local path to write a shard to; the shard is in its place when the context ends."""
        local = self.place.local(name)
        if local is not None:
            local.parent.mkdir(parents=True, exist_ok=True)
            yield local
            return
        with tempfile.TemporaryDirectory(prefix="electra-data-", dir=scratch_folder()) as folder:
            copy = Path(folder) / Path(name).name
            yield copy
            self.place.put_file(name, copy)


@functools.lru_cache(maxsize=4)
def _place(url: str) -> Place:
    return open_place(url)
