"""A file of any place as a local path, for readers that map files into memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.place import Place


@contextmanager
def local_copy(place: Place, name: str) -> Iterator[Path]:
    """The file itself if it lies in a folder, else a copy in the system's temporary folder while the block runs.

    Raises:
        Missing: an object store has no such file; a folder's file is not looked at.
        UserError: the object store refuses, does not answer, or the disk is full.
    """
    path = place.local(name)
    if path is not None:
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="electra-data-") as copy:
        place.fetch(name, Path(copy.name))
        yield Path(copy.name)
