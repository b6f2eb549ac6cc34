"""``manifest.json``: the file that makes a folder of shards a finished store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from data_pipeline.atomic import write_bytes
from data_pipeline.errors import UserError

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1
SPLITS = ("train", "heldout")

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file of the store: its name relative to the store and its SHA-256."""

    name: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """One shard: ``rows`` documents holding ``tokens`` token ids in a file of ``bytes`` bytes."""

    name: str
    split: Literal["train", "heldout"]
    rows: int
    tokens: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class TokenizerEntry:
    """The tokenizer: ``files`` maps a path relative to the store (under ``tokenizer/``) to its SHA-256."""

    fingerprint: str
    vocab_size: int
    files: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a store holds. Shards are in canonical order: that of the inputs."""

    version: int
    fingerprint: str
    tokenizer: TokenizerEntry
    shards: list[ShardEntry]
    counts: dict[str, int]
    settings: dict[str, Any]
    token_counts: FileEntry

    def split(self, name: str) -> list[ShardEntry]:
        """The shards of split ``"train"`` or ``"heldout"``, in canonical order.

        Raises:
            UserError: there is no split of that name.
        """
        if name not in SPLITS:
            raise UserError(f"no split {name!r} in a store: choose one of {', '.join(SPLITS)}")
        return [shard for shard in self.shards if shard.split == name]


def canonical_json(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def manifest_fingerprint(tokenizer_fingerprint: str, settings: Mapping[str, Any], shards: Sequence[ShardEntry]) -> str:
    """SHA-256 over the tokenizer's fingerprint, the canonical settings and the shards' checksums in order.

    The hashed bytes are lines ended by a line feed: the tokenizer's fingerprint, the canonical JSON of the
    settings, then one checksum per shard.
    """
    digest = hashlib.sha256()
    digest.update(tokenizer_fingerprint.encode() + b"\n")
    digest.update(canonical_json(settings) + b"\n")
    for shard in shards:
        digest.update(shard.sha256.encode() + b"\n")
    return digest.hexdigest()


def write_manifest(store: str | Path, manifest: Manifest) -> Path:
    """Write ``manifest.json`` atomically; the last thing that a build does."""
    path = Path(store) / MANIFEST_NAME
    text = json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True, ensure_ascii=False)
    write_bytes(path, text.encode() + b"\n")
    return path


def load_manifest(store: str | Path) -> Manifest:
    """Read and check the manifest of a store in a local folder.

    Raises:
        UserError: the folder is missing, unfinished, not a store, or its manifest is unreadable, of another
            version, of wrong types, names files outside the store, or disagrees with its own fingerprint.
    """
    folder = Path(store)
    if not folder.is_dir():
        raise UserError(f"no store at {folder}: the folder does not exist; build one with `electra-data build`")
    path = folder / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no {MANIFEST_NAME}: an unfinished build or not a store; run `electra-data build` again"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the file's permissions") from error
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Check a manifest's bytes, wherever they came from; ``where`` names them in errors.

    Raises:
        UserError: see :func:`load_manifest`.
    """
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON ({error}): restore it or build the store again") from error
    reader = _Reader(where)
    top = reader.mapping(raw, "the manifest")
    version = reader.integer(top, "version")
    if version != MANIFEST_VERSION:
        raise UserError(
            f"{where} has version {version}, this program reads version {MANIFEST_VERSION}: "
            "use the release that built the store, or build it again"
        )
    tokenizer = reader.mapping(top.get("tokenizer"), "tokenizer")
    files = reader.mapping(tokenizer.get("files"), "tokenizer.files")
    manifest = Manifest(
        version=version,
        fingerprint=reader.digest(top, "fingerprint"),
        tokenizer=TokenizerEntry(
            fingerprint=reader.digest(tokenizer, "fingerprint"),
            vocab_size=reader.integer(tokenizer, "vocab_size"),
            files={reader.tokenizer_path(name): reader.digest(files, name) for name in files},
        ),
        shards=[reader.shard(entry, index) for index, entry in enumerate(reader.items(top, "shards"))],
        counts={
            name: reader.integer(reader.mapping(top["counts"], "counts"), name)
            for name in reader.mapping(top.get("counts"), "counts")
        },
        settings=reader.mapping(top.get("settings"), "settings"),
        token_counts=reader.file(top.get("token_counts"), "token_counts"),
    )
    names = [shard.name for shard in manifest.shards]
    if len(set(names)) != len(names):
        raise UserError(f"{where} lists a shard twice: build the store again")
    expected = manifest_fingerprint(manifest.tokenizer.fingerprint, manifest.settings, manifest.shards)
    if expected != manifest.fingerprint:
        raise UserError(
            f"{where} was altered: its fingerprint is {manifest.fingerprint[:12]} but its content gives "
            f"{expected[:12]}; restore it or build the store again"
        )
    return manifest


class _Reader:
    """Typed access to parsed JSON; every refusal names the file and the field."""

    def __init__(self, where: str) -> None:
        self.where = where

    def refuse(self, field: str, wanted: str) -> UserError:
        return UserError(f"{self.where}: {field} is not {wanted}: restore the file or build the store again")

    def mapping(self, value: object, field: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.refuse(field, "an object")
        return value

    def items(self, parent: Mapping[str, Any], field: str) -> list[Any]:
        value = parent.get(field)
        if not isinstance(value, list):
            raise self.refuse(field, "a list")
        return value

    def integer(self, parent: Mapping[str, Any], field: str) -> int:
        value = parent.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.refuse(field, "a whole number of at least 0")
        return value

    def digest(self, parent: Mapping[str, Any], field: str) -> str:
        value = parent.get(field)
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise self.refuse(field, "a SHA-256 in lower-case hexadecimal")
        return value

    def file_name(self, value: object, field: str) -> str:
        # One path component only, so that nothing read or written through a manifest leaves the store.
        bad = not isinstance(value, str) or value in ("", ".", "..") or any(c in value for c in "/\\\0")
        if bad:
            raise self.refuse(f"{field} ({value!r})", "a plain file name inside the store")
        return str(value)

    def tokenizer_path(self, value: str) -> str:
        path = PurePosixPath(value)
        ordinary = str(path) == value and ".." not in path.parts and not any(c in value for c in "\\\0")
        if path.is_absolute() or len(path.parts) != 2 or path.parts[0] != "tokenizer" or not ordinary:
            raise self.refuse(f"tokenizer.files ({value!r})", "a path of the form tokenizer/NAME inside the store")
        return value

    def shard(self, value: object, index: int) -> ShardEntry:
        field = f"shards[{index}]"
        entry = self.mapping(value, field)
        split = entry.get("split")
        if split != "train" and split != "heldout":
            raise self.refuse(f"{field}.split", "train or heldout")
        return ShardEntry(
            name=self.file_name(entry.get("name"), f"{field}.name"),
            split=split,
            rows=self.integer(entry, "rows"),
            tokens=self.integer(entry, "tokens"),
            bytes=self.integer(entry, "bytes"),
            sha256=self.digest(entry, "sha256"),
        )

    def file(self, value: object, field: str) -> FileEntry:
        entry = self.mapping(value, field)
        return FileEntry(self.file_name(entry.get("name"), f"{field}.name"), self.digest(entry, "sha256"))
