"""``manifest.json``: the file that makes a folder of shards a finished store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

from data_pipeline.errors import UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.place import Missing, Place

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 2
# Beside the manifest: what a build needs for its own continuation.
WORK_FOLDER = ".build"
SPLITS = ("train", "heldout")

# No count, size or vocabulary is larger; what is read is used for sizes of arrays.
MOST_ROWS = (1 << 31) - 1
MOST_VOCABULARY = 1 << 24
_MOST = (1 << 63) - 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Control characters, line ends and halves of surrogate pairs have no business in a name.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file of the store: its name relative to the store and its SHA-256."""

    name: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class ShardEntry:
    """One shard: ``rows`` documents holding ``tokens`` token ids in a file of ``bytes`` bytes.

    ``source`` is the label of the source that its documents come from.
    """

    name: str
    split: Literal["train", "heldout"]
    source: str
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


def contents(manifest: Manifest) -> dict[str, Any]:
    """What a store holds, for people who read about a model: documents and tokens of each source by split, the size of
    the vocabulary, and the language that the build kept, None if it kept all."""
    sources: dict[str, dict[str, list[int]]] = {}
    for shard in manifest.shards:
        counts = sources.setdefault(shard.source, {split: [0, 0] for split in SPLITS})[shard.split]
        counts[0] += shard.rows
        counts[1] += shard.tokens
    clean = manifest.settings.get("clean")
    language = clean.get("language") if isinstance(clean, dict) else None
    return {
        "sources": sources,
        "vocabulary": manifest.tokenizer.vocab_size,
        "language": language if isinstance(language, str) else None,
    }


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


def manifest_bytes(manifest: Manifest) -> bytes:
    """The text of ``manifest.json``, the same for equal manifests."""
    text = json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True, ensure_ascii=False)
    return text.encode() + b"\n"


def write_manifest(place: Place, manifest: Manifest) -> None:
    """Write ``manifest.json`` atomically; the last thing that a build does.

    Raises:
        UserError: an object store has another manifest there already.
    """
    data = manifest_bytes(manifest)
    if isinstance(place, FolderPlace):
        place.put(MANIFEST_NAME, data)
    elif not place.put_new(MANIFEST_NAME, data) and place.read(MANIFEST_NAME) != data:
        raise UserError(
            f"{place.url} got another {MANIFEST_NAME} while this build ran: two builds wrote there; "
            f"delete all of {place.url} and build it again, or choose another out"
        )


def load_manifest(place: Place) -> Manifest:
    """Read and check the manifest of the store in a place.

    Raises:
        UserError: the store is missing, unfinished or does not answer, is not a store, or its manifest is
            unreadable, of another version, of wrong types, names files outside the store, or disagrees with
            its own fingerprint.
    """
    where = f"{place.url.rstrip('/')}/{MANIFEST_NAME}"
    if isinstance(place, FolderPlace) and not place.path.is_dir():
        raise UserError(f"no store at {place.url}: the folder does not exist; build one with `electra-data build`")
    try:
        data = place.read(MANIFEST_NAME)
    except Missing:
        raise UserError(
            f"{place.url} has no {MANIFEST_NAME}: an unfinished build or not a store; run `electra-data build` again"
        ) from None
    return parse_manifest(data, where)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Check a manifest's bytes, wherever they came from; ``where`` names them in errors.

    Raises:
        UserError: see :func:`load_manifest`.
    """
    try:
        raw = json.loads(data, parse_constant=_refuse_constant)
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
            vocab_size=reader.integer(tokenizer, "vocab_size", MOST_VOCABULARY),
            files={reader.tokenizer_path(name): reader.digest(files, name) for name in files},
        ),
        shards=[reader.shard(entry, index) for index, entry in enumerate(reader.items(top, "shards"))],
        counts={
            reader.text({"name": name}, f"counts ({name!r})", "name"): reader.integer(top["counts"], name)
            for name in reader.mapping(top.get("counts"), "counts")
        },
        settings=reader.mapping(top.get("settings"), "settings"),
        token_counts=reader.file(top.get("token_counts"), "token_counts"),
    )
    names = [shard.name for shard in manifest.shards]
    if len(set(names)) != len(names):
        raise UserError(f"{where} lists a shard twice: build the store again")
    try:
        expected = manifest_fingerprint(manifest.tokenizer.fingerprint, manifest.settings, manifest.shards)
    except (ValueError, RecursionError) as error:
        raise reader.refuse("settings", f"plain JSON ({error})") from error
    if expected != manifest.fingerprint:
        raise UserError(
            f"{where} was altered: its fingerprint is {manifest.fingerprint[:12]} but its content gives "
            f"{expected[:12]}; restore it or build the store again"
        )
    return manifest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


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

    def integer(self, parent: Mapping[str, Any], field: str, most: int = _MOST) -> int:
        value = parent.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.refuse(field, "a whole number of at least 0")
        if value > most:
            raise self.refuse(field, f"at most {most:,}")
        return value

    def text(self, parent: Mapping[str, Any], field: str, key: str) -> str:
        value = parent.get(key)
        if not isinstance(value, str) or not value or _UNPRINTABLE.search(value):
            raise self.refuse(field, "a text of one line")
        return value

    def digest(self, parent: Mapping[str, Any], field: str) -> str:
        value = parent.get(field)
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise self.refuse(field, "a SHA-256 in lower-case hexadecimal")
        return value

    def file_name(self, value: object, field: str) -> str:
        # One path component only, so that nothing read or written through a manifest leaves the store.
        bad = not isinstance(value, str) or value in ("", ".", "..") or any(c in value for c in "/\\")
        bad = bad or _UNPRINTABLE.search(str(value)) is not None
        if bad:
            raise self.refuse(f"{field} ({value!r})", "a plain file name inside the store")
        return str(value)

    def tokenizer_path(self, value: str) -> str:
        path = PurePosixPath(value)
        ordinary = (
            str(path) == value and ".." not in path.parts and "\\" not in value and not _UNPRINTABLE.search(value)
        )
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
            source=self.text(entry, f"{field}.source", "source"),
            rows=self.integer(entry, "rows", MOST_ROWS),
            tokens=self.integer(entry, "tokens", MOST_ROWS),
            bytes=self.integer(entry, "bytes"),
            sha256=self.digest(entry, "sha256"),
        )

    def file(self, value: object, field: str) -> FileEntry:
        entry = self.mapping(value, field)
        return FileEntry(self.file_name(entry.get("name"), f"{field}.name"), self.digest(entry, "sha256"))
