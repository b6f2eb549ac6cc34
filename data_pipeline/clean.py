"""Cleaning of one document's text, and the hash that it is known by."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Literal

from data_pipeline.config import CleanConfig

HASH_BYTES = 16

# Control characters carry no text; tab and line feed are handled as white space, the BOM is one of ours.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]")
_LINE_END = re.compile("[ \t\r\f\v]*(?:\r\n|[\n\r\u0085\u2028\u2029\x0b\x0c])\\s*")
# A single space needs no replacement, and most blanks are single spaces.
_BLANKS = re.compile(r"[^\S\n]{2,}|[^\S\n ]")

Reason = Literal["too_short", "too_long"]


def clean_text(text: str, config: CleanConfig) -> str:
    """Normalize Unicode and white space; idempotent for a given configuration."""
    if config.unicode != "none":
        text = unicodedata.normalize(config.unicode, text)
    if config.whitespace:
        text = _CONTROL.sub("", text)
        text = _LINE_END.sub("\n", text)
        text = _BLANKS.sub(" ", text).strip()
        if config.unicode != "none":
            # Removing a control character can bring a base letter and its accent together.
            text = unicodedata.normalize(config.unicode, text)
    return text


def refuse_length(text: str, config: CleanConfig) -> Reason | None:
    """Why a cleaned document is dropped for its length in characters, or None when it stays."""
    if len(text) < max(1, config.min_chars) or not text.strip():
        return "too_short"
    if len(text) > config.max_chars:
        return "too_long"
    return None


def content_hash(text: str) -> bytes:
    """128-bit BLAKE2b of cleaned text in UTF-8: 8 bytes of document id, then 8 that choose the split."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=HASH_BYTES).digest()
