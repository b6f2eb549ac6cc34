"""Why a record of a source gives no text, and the words for it."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "not_json", "not_an_object", "no_field", "not_text", "half_pair", "not_utf8", "bad_page", "oversized", "empty"
]

_WORDS: dict[Reason, str] = {
    "not_json": "not JSON",
    "not_an_object": "JSON, but not an object",
    "no_field": "no field {field!r}",
    "not_text": "field {field!r} holds no text",
    "half_pair": "not Unicode (half of a surrogate pair)",
    "not_utf8": "not UTF-8",
    "bad_page": "wikitext that is broken or too large",
    "oversized": "too long to be held in memory",
    "empty": "empty after cleaning",
}


def words_for(reason: Reason, field: str) -> str:
    """The reason as a message has it; ``field`` is the one that the source reads."""
    return _WORDS[reason].format(field=field)


def kind_of(value: object) -> str:
    """What a JSON value is, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a value of type {type(value).__name__}"
