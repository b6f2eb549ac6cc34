"""Who may write to a store: one build at a time into a folder, one set of settings into a bucket's prefix."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.build.records import Work
from data_pipeline.errors import UserError
from data_pipeline.places.json_file import decode_record, encode_record
from data_pipeline.places.names import is_object_store
from data_pipeline.places.place import Missing, Place
from data_pipeline.read.inputs import Input
from data_pipeline.store.manifest import MANIFEST_NAME, WORK_FOLDER, Manifest, load_manifest

_FINISHED = f"{WORK_FOLDER}/finished.json"
_CLAIM = f"{WORK_FOLDER}/claim.json"


def input_identity(entry: Input) -> str:
    """Text that changes when the input does."""
    return f"{entry.size} {entry.identity}"


def finished_store(place: Place, settings: dict[str, Any], inputs: Sequence[Input]) -> Manifest | None:
    """The manifest when the store is finished from the same settings and inputs, None when there is none.

    Raises:
        UserError: the store was built with other settings or from inputs that changed since.
    """
    if place.stat(MANIFEST_NAME) is None:
        return None
    manifest = load_manifest(place)
    if manifest.settings != settings:
        raise UserError(
            f"{place.url} was built with other settings ({difference(manifest.settings, settings)}): "
            "choose another out, or remove the store to build it again; nothing was changed"
        )
    try:
        data = place.read(_FINISHED)
    except Missing:
        # A copied store has no work folder; its settings list the inputs by name and size.
        return manifest
    identities = decode_record(
        data, f"{place.url}/{_FINISHED}", dict, advice="choose another out, or remove the store to build it again"
    )
    for entry in inputs:
        if identities.get(f"{entry.source}:{entry.location}") != input_identity(entry):
            raise UserError(
                f"{place.url} was built before {entry.location} changed: choose another out, or remove the store "
                "to build it again; nothing was changed"
            )
    return manifest


def refuse_changed(before: Sequence[Input], now: Sequence[Input]) -> None:
    """Raise UserError if the inputs are no longer what they were when the build started."""
    if now != before:
        changed = [entry.location for entry in now if entry not in before] or [
            entry.location for entry in before if entry not in now
        ]
        raise UserError(
            f"an input changed while it was being read ({', '.join(changed[:3])}): run again when nothing writes to it"
        )


def record_inputs(place: Place, inputs: Sequence[Input]) -> None:
    """Record what the inputs were, for builds that find the store finished."""
    identities = {f"{entry.source}:{entry.location}": input_identity(entry) for entry in inputs}
    # Without a line's end, as in every store so far: equal builds of two releases are equal file by file.
    place.put(_FINISHED, encode_record(identities).rstrip())


def difference(old: Any, new: Any, key: str = "") -> str:
    """The first setting that differs, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                return difference(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            if left != right:
                return difference(left, right, f"{key}[{index}]")
    left, right = (text if len(text) <= 80 else f"{text[:77]}..." for text in (repr(old), repr(new)))
    return f"{key} was {left}, now {right}"


@contextmanager
def claimed(place: Place, key: str, settings: dict[str, Any]) -> Iterator[Work]:
    """Hold the store for the build with this key and find what it has finished.

    Raises:
        UserError: another build holds the store, or it holds something else.
    """
    if is_object_store(place.url):
        _claim_prefix(place, key, settings)
        yield Work(place.url, key, in_place=True)
        return
    folder = Path(place.url)
    _refuse_foreign_folder(folder)
    with store_lock(folder):
        _tidy_folder(folder, key)
        yield Work(place.url, key, in_place=False)


def _claim_prefix(place: Place, key: str, settings: dict[str, Any]) -> None:
    # In this order: an equal build that starts meanwhile puts its claim before anything else.
    occupied = next(iter(place.list()), None) is not None
    if occupied and place.stat(_CLAIM) is None:
        raise UserError(f"{place.url} is not empty and not a store: choose a new or empty prefix for out")
    if place.put_new(_CLAIM, encode_record({"key": key, "settings": settings}, sort_keys=True).rstrip()):
        return
    other, known = decode_record(
        place.read(_CLAIM),
        f"{place.url}/{_CLAIM}",
        lambda claim: (claim["key"], claim["settings"]),
        advice=f"delete all of {place.url} and build again",
    )
    if other != key:
        changed = difference(known, settings) if known != settings else "an input changed"
        raise UserError(
            f"{place.url} belongs to an unfinished build with other settings ({changed}): continue with those "
            f"settings, choose another out, or delete all of {place.url} to start again; nothing was changed"
        )


def _refuse_foreign_folder(store: Path) -> None:
    if store.exists() and not store.is_dir():
        raise UserError(f"out is {store}, which is a file: choose the name of a new folder")
    if store.is_dir() and any(store.iterdir()) and not (store / WORK_FOLDER).is_dir():
        raise UserError(f"{store} is not empty and not a store: choose a new or empty folder for out")


def _tidy_folder(store: Path, key: str) -> None:
    """Drop the work of builds that were given up for other settings, and half-written files of this one."""
    for other in (store / WORK_FOLDER).iterdir():
        if other.is_dir() and other.name != key:
            shutil.rmtree(other)
    for leftover in (store / WORK_FOLDER / key).rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)


@contextmanager
def store_lock(store: Path) -> Iterator[None]:
    """Hold a folder for one build; the lock ends with the process, however it ends.

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
