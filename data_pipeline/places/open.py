"""Opening the place that a user names, and getting a local path of one of its files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.names import is_object_store, is_utf8
from data_pipeline.places.place import Place
from data_pipeline.places.scratch import scratch_folder


def open_place(url: str | Path) -> Place:
    """The folder or ``s3://bucket/prefix`` that ``url`` names; nothing is read or made yet.

    Raises:
        UserError: no bucket in the URL, a scheme that is not known, a name that is not in UTF-8, or no boto3 for a
            bucket.
    """
    text = str(url)
    if not is_utf8(text):
        raise UserError(f"{text!a} is not a name in UTF-8: rename the folder, or choose another one")
    if is_object_store(text):
        from data_pipeline.places.s3 import S3Place

        return S3Place(text)
    scheme, found, _ = text.partition("://")
    if found:
        # The rest is not repeated: it may hold a password or a signature.
        raise UserError(f"no store can be reached by {scheme}://: give a folder or s3://bucket/prefix")
    return FolderPlace(Path(text).expanduser())


def open_bucket(bucket: str) -> Place:
    """A whole bucket of somebody else's files, in which every key is a name.

    Raises:
        UserError: boto3 is not installed.
    """
    from data_pipeline.places.s3_keys import S3Keys

    return S3Keys(bucket)


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
    with tempfile.NamedTemporaryFile(prefix="electra-data-", dir=scratch_folder()) as copy:
        place.fetch(name, Path(copy.name))
        yield Path(copy.name)
