"""Cleaning of one document's text, the reasons to drop it, and the hash that it is known by."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_pipeline.clean.filters import FILTERS
from data_pipeline.clean.language import language_test
from data_pipeline.clean.normal_form import normal_form
from data_pipeline.config import CleanConfig

_VECTORIZED_FROM = 2048

# White space as str.isspace has it, in UTF-8; what ends a line apart from the rest.
_ASCII = bytes(range(9)) + b" \n\n\n\n" + bytes(range(14, 256))
# Control characters carry no text, and U+FEFF is handled as one of them.
_ASCII_CONTROL = bytes({*range(0x20), 0x7F} - {*b"\t\n\v\f\r"})
# What comes beyond ASCII, by the first byte: a character that is not in the text at all costs next to nothing. Of each
# first byte a pattern that finds any of them, then what is replaced.
_WIDE = (
    (
        b"\xc2",
        re.compile(rb"\xc2[\x80-\xa0]"),
        (
            (re.compile(rb"\xc2[\x80-\x84\x86-\x9f]"), b""),
            (re.compile(rb"\xc2\x85"), b"\n"),
            (re.compile(rb"\xc2\xa0"), b" "),
        ),
    ),
    (b"\xef", re.compile(rb"\xef\xbb\xbf"), ((re.compile(rb"\xef\xbb\xbf"), b""),)),
    (
        b"\xe2",
        re.compile(rb"\xe2(?:\x80[\x80-\x8a\xa8\xa9\xaf]|\x81\x9f)"),
        (
            (re.compile(rb"\xe2\x80[\xa8\xa9]"), b"\n"),
            (re.compile(rb"\xe2(?:\x80[\x80-\x8a\xaf]|\x81\x9f)"), b" "),
        ),
    ),
    (b"\xe1", re.compile(rb"\xe1\x9a\x80"), ((re.compile(rb"\xe1\x9a\x80"), b" "),)),
    (b"\xe3", re.compile(rb"\xe3\x80\x80"), ((re.compile(rb"\xe3\x80\x80"), b" "),)),
)


# Of a character's bytes in UTF-8 all but the first lie below this as signed numbers.
_FIRST_OF_CHARACTER = -0x40


class Cleaned(NamedTuple):
    """A cleaned document: its text in UTF-8, how many characters that is, and why the document is dropped: one of
    :attr:`Cleaner.reasons`, or None when it stays."""

    data: bytes
    characters: int
    reason: str | None


class Cleaner:
    """Cleans documents, and decides which to drop, by one configuration.

    Raises:
        UserError: the language is not known, or the package that recognizes languages is missing.
    """

    def __init__(self, config: CleanConfig) -> None:
        self._config = config
        tests: list[tuple[str, Callable[[str], bool]]] = [(f"filter_{name}", FILTERS[name]) for name in config.filters]
        if config.language is not None:
            tests.append(("language", language_test(config.language)))
        self._tests = tuple(tests)
        self.reasons: tuple[str, ...] = ("too_short", "too_long", *(name for name, _ in tests))

    def clean(self, raw: str) -> Cleaned:
        """The cleaned document."""
        data = clean_bytes(raw, self._config)
        characters = characters_in(data)
        reason = refuse_length(data, characters, self._config)
        if reason is None and self._tests:
            text = data.decode("utf-8", "surrogatepass")
            reason = next((name for name, keeps in self._tests if not keeps(text)), None)
        return Cleaned(data, characters, reason)


def clean_text(text: str, config: CleanConfig) -> str:
    """Normalize Unicode and white space; idempotent for a given configuration.

    A run of white space that holds a line's end becomes one line feed, any other run one space.
    """
    return clean_bytes(text, config).decode("utf-8", "surrogatepass")


def clean_bytes(text: str, config: CleanConfig) -> bytes:
    """:func:`clean_text` in UTF-8, where halves of surrogate pairs are as any other character."""
    form = config.unicode
    if form != "none" and not text.isascii():
        text = normal_form(text, form)
    data = text.encode("utf-8", "surrogatepass")
    if config.whitespace:
        # All on bytes, where translate, replace and find are an order of magnitude faster than on characters.
        data, removed = _mark_white_space(data, text.isascii())
        data = _collapse(data)
        if form != "none" and removed and not data.isascii():
            # Removing a control character can bring a base letter and its accent together.
            data = normal_form(data.decode("utf-8", "surrogatepass"), form).encode("utf-8", "surrogatepass")
    return data


def characters_in(data: bytes) -> int:
    """How many characters a text in UTF-8 has."""
    if data.isascii():
        return len(data)
    return len(data) - int(np.count_nonzero(np.frombuffer(data, np.int8) < _FIRST_OF_CHARACTER))


def _mark_white_space(data: bytes, ascii_only: bool) -> tuple[bytes, bool]:
    """UTF-8 with every white space as a space or a line feed and no control characters, and whether there were any."""
    size = len(data)
    data = data.translate(_ASCII, _ASCII_CONTROL)
    removed = len(data) < size
    if not ascii_only:
        for first, any_of, replaced in _WIDE:
            if first in data and any_of.search(data):
                for pattern, replacement in replaced:
                    size = len(data)
                    data = pattern.sub(replacement, data)
                    removed |= not replacement and len(data) < size
    return data, removed


def _collapse(data: bytes) -> bytes:
    """Runs of spaces and line feeds as one of them, none at the ends."""
    # Halving repeatedly keeps a long run linear.
    while _has_double_space(data):
        data = data.replace(b"  ", b" ")
    return b"\n".join([line for part in data.split(b"\n") if (line := part.strip(b" "))])


def _has_double_space(data: bytes) -> bool:
    if len(data) < _VECTORIZED_FROM:
        return b"  " in data
    # In prose every sixth byte is a space, at which a search for two of them stops each time.
    space = np.frombuffer(data, np.uint8) == 0x20
    return bool((space[1:] & space[:-1]).any())


def refuse_length(data: bytes, characters: int, config: CleanConfig) -> str | None:
    """Why a cleaned document is dropped for its length in characters, or None when it stays."""
    if characters < max(1, config.min_chars) or is_blank(data):
        return "too_short"
    if characters > config.max_chars:
        return "too_long"
    return None


def is_blank(data: bytes) -> bool:
    """Whether a text in UTF-8 is empty or has only white space."""
    # A text that begins with a letter or a digit is not; of any other one all may have to be looked at.
    return not data or (not data[:1].isalnum() and data.decode("utf-8", "surrogatepass").isspace())
