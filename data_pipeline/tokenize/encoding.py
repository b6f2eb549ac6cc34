"""Text to token ids by the quickest engine whose ids are those of ``tokenizers``.

``tokenizers`` defines the ids. ``nanotoken`` gives the same ones many times faster, but it is young: it is used
only where it understands the whole tokenizer and agrees on a sample of the build's text and on fixed probes.
Special tokens written out in a text, such as a literal ``[MASK]``, are plain characters to every engine.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import orjson

from data_pipeline.errors import UserError
from data_pipeline.extras import needs_extra
from data_pipeline.tokenize.description import described
from data_pipeline.tokenize.probes import PROBES

REFERENCE = "tokenizers"
FAST = "nanotoken"

# About 32 MiB for each of a process's caches; more gains little on prose.
_CACHE_ENTRIES = 1 << 18
_CHUNK_CHARACTERS = 1 << 20
_LOOKED_AT_CHARACTERS = 100_000
# Up to a blank within a thousand characters, or as many where there is none.
_PIECES = re.compile(r".{1,1000}(?=\s|$)|.{1,1000}|\s", re.DOTALL)


Texts = Sequence[str] | Sequence[bytes]


class TextEncoder(Protocol):
    """Turns texts, or their UTF-8, into ids without special tokens; the texts hold no lone surrogates."""

    @property
    def name(self) -> str:
        """The engine."""
        ...

    def encode(self, texts: Texts) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """``ids`` (tokens,) of all n texts and ``offsets`` (n + 1,), where each text's ids begin and end."""
        ...


@dataclass(frozen=True)
class Choice:
    """The engine to use, by its name for :func:`open_encoder`, and the line that reports it and why."""

    name: str
    line: str


class _Reference:
    name = REFERENCE

    def __init__(self, tokenizer_json: bytes) -> None:
        self._tokenizer = described(tokenizer_json).text_encoder

    def encode(self, texts: Texts) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        spelled = [text.decode("utf-8") if isinstance(text, bytes) else text for text in texts]
        try:
            rows = [row.ids for row in self._tokenizer.encode_batch_fast(spelled, add_special_tokens=False)]
        except Exception as error:  # the library raises nothing more specific, for a tokenizer without unknown token
            raise UserError(f"the tokenizer cannot encode a text ({error}): repair it, or use another one") from error
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)), out=offsets[1:])
        ids = np.empty(int(offsets[-1]), np.uint32)
        for row, begin, end in zip(rows, offsets[:-1], offsets[1:], strict=True):
            ids[begin:end] = row
        return ids, offsets


class _Fast:
    name = FAST

    def __init__(self, tokenizer_json: bytes) -> None:
        import nanotoken

        nanotoken.set_cache_entries(_CACHE_ENTRIES)
        self._tokenizer = nanotoken.WordPieceTokenizer.from_json(_plain_text_json(tokenizer_json))

    def encode(self, texts: Texts) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        # One thread: a build has a process for each core.
        return self._tokenizer.encode_batch(texts, add_special_tokens=False, parallel=False)


def open_encoder(tokenizer_json: bytes, name: str) -> TextEncoder:
    """The engine ``name``, ``"tokenizers"`` or ``"nanotoken"``, for a store's ``tokenizer.json``.

    Raises:
        UserError: nanotoken is not installed, or it can't represent this tokenizer.
    """
    if name == REFERENCE:
        return _Reference(tokenizer_json)
    if name != FAST:
        raise ValueError(f"no tokenizing engine {name!r}")
    try:
        with needs_extra("fast", "nanotoken", "faster tokenizing"):
            return _Fast(tokenizer_json)
    except ValueError as error:
        raise UserError(f"nanotoken can't represent this tokenizer ({error})") from error


def choose_encoder(
    tokenizer_json: bytes, sample: Sequence[str], opened: Callable[[str], TextEncoder] | None = None
) -> Choice:
    """The quickest engine that gives the ids of ``tokenizers`` on ``sample`` and on the fixed probes.

    ``opened`` gives the engine of a name; :func:`open_encoder` if left out.
    """
    opened = opened or functools.partial(open_encoder, tokenizer_json)
    try:
        fast = opened(FAST)
    except UserError as error:
        return Choice(REFERENCE, f"tokenizing with tokenizers: {error}")
    spelled = _spelled_out(tokenizer_json)
    different = _first_difference(open_encoder(spelled, REFERENCE), open_encoder(spelled, FAST), PROBES)
    if different is None:
        different = _first_difference(opened(REFERENCE), fast, [*PROBES, *sample])
    if different is not None:
        shown = repr(different) if len(different) <= 40 else f"{different[:40]!r}..."
        return Choice(REFERENCE, f"tokenizing with tokenizers: nanotoken gives other ids for {shown}")
    checked = f"{len(sample):,} texts of this build and {len(PROBES)} probes"
    return Choice(FAST, f"tokenizing with nanotoken: its ids are those of tokenizers on {checked}")


def unknown_word(tokenizer_json: bytes, text: str) -> str:
    """The first part of a text that the tokenizer doesn't know; empty if that comes only far behind its start."""
    encoder, unknown = described(tokenizer_json).text_encoder, described(tokenizer_json).unknown
    # A piece at a time: the first one is often enough, and offsets come from the slower engine alone.
    for piece in _PIECES.findall(text[:_LOOKED_AT_CHARACTERS]):
        found = encoder.encode(piece, add_special_tokens=False)
        for index, (begin, end) in zip(found.ids, found.offsets, strict=True):
            if index == unknown:
                return str(piece[begin:end])
    return ""


def _first_difference(reference: TextEncoder, other: TextEncoder, texts: Sequence[str]) -> str | None:
    """The first text that ``other`` gives different ids for, None if there is none."""
    for chunk in _chunks(texts):
        ids, offsets = reference.encode(chunk)
        # As a build gives them.
        found_ids, found_offsets = other.encode([text.encode("utf-8") for text in chunk])
        if np.array_equal(ids, found_ids) and np.array_equal(offsets, found_offsets):
            continue
        for row, text in enumerate(chunk):
            wanted = ids[offsets[row] : offsets[row + 1]]
            if not np.array_equal(wanted, found_ids[found_offsets[row] : found_offsets[row + 1]]):
                return text
    return None


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for text in texts:
        chunk.append(text)
        characters += len(text)
        if characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _spelled_out(tokenizer_json: bytes) -> bytes:
    """The same rules over a vocabulary of the probes' single characters, where no [UNK] can hide a difference."""
    raw = described(tokenizer_json).raw
    text = "".join(PROBES)
    forms = (unicodedata.normalize(form, case) for form in ("NFC", "NFKD") for case in (text, text.lower()))
    model = raw["model"]
    entries, prefix = [model["unk_token"]], model["continuing_subword_prefix"]
    for character in sorted(set().union(*forms)):
        entries += [character, prefix + character]
    model = {**model, "vocab": {entry: index for index, entry in enumerate(entries)}}
    return orjson.dumps({**raw, "model": model, "added_tokens": [], "post_processor": None})


def _plain_text_json(tokenizer_json: bytes) -> bytes:
    """The same tokenizer for text alone, without special tokens beside the vocabulary."""
    text = described(tokenizer_json).for_text
    added = [token for token in text["added_tokens"] if not token.get("special")]
    return orjson.dumps({**text, "added_tokens": added})
