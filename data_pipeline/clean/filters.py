"""Quality filters for documents, by name: the rules of MassiveText.

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher" (arXiv 2112.11446),
appendix A.1.1: the quality rules in its text, the repetition thresholds in its table A1. A word is a run of
characters between white space; where a script has no blanks between words, see :mod:`data_pipeline.clean.words`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from data_pipeline.clean.words import taken_apart, words_of
from data_pipeline.config import FilterName

# "between 50 and 100,000 words"
MIN_WORDS, MAX_WORDS = 50, 100_000
# "mean word length is outside the range of 3 to 10 characters" is removed
MIN_WORD_LENGTH, MAX_WORD_LENGTH = 3.0, 10.0
# "a symbol-to-word ratio greater than 0.1 for either the hash symbol or the ellipsis" is removed
MAX_SYMBOLS_PER_WORD = 0.1
# "80% of words in a document contain at least one alphabetic character"
MIN_WORDS_WITH_LETTER = 0.8
# "at least two of the following English words"
STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
MIN_STOP_WORDS = 2
# Table A1: duplicate line fraction, duplicate line character fraction
MAX_REPEATED_LINES = 0.30
MAX_CHARACTERS_IN_REPEATED_LINES = 0.20

_LETTER = re.compile(r"[^\W\d_]")
_ELLIPSIS = re.compile(r"\.\.\.|…")


def words(text: str) -> bool:
    """Keep 50 to 100,000 words."""
    return MIN_WORDS <= len(words_of(text)[0]) <= MAX_WORDS


def word_length(text: str) -> bool:
    """Keep a mean word length of 3 to 10 characters, and text most of which is written without blanks."""
    found, apart = words_of(text)
    if apart > len(found) / 2:
        # How long its words are can't be seen.
        return True
    if apart:
        found = [word for word in text.split() if taken_apart(word) is None]
    return bool(found) and MIN_WORD_LENGTH <= sum(map(len, found)) / len(found) <= MAX_WORD_LENGTH


def symbols(text: str) -> bool:
    """Keep at most one ``#`` for ten words, and at most one ellipsis (``...`` or ``…``) for ten words."""
    most = MAX_SYMBOLS_PER_WORD * len(words_of(text)[0])
    return text.count("#") <= most and len(_ELLIPSIS.findall(text)) <= most


def letters(text: str) -> bool:
    """Keep documents in which at least 80 % of the words hold a letter."""
    found, _ = words_of(text)
    # Most words are letters only, which isalpha finds without a search.
    with_letter = sum(1 for word in found if word.isalpha() or _LETTER.search(word))
    return bool(found) and with_letter >= MIN_WORDS_WITH_LETTER * len(found)


def stop_words(text: str) -> bool:
    """Keep documents with at least two different words of: the, be, to, of, and, that, have, with (English only)."""
    return len(STOP_WORDS.intersection(text.lower().split())) >= MIN_STOP_WORDS


def repeated_lines(text: str) -> bool:
    """Keep at most 30 % of lines that repeat an earlier one, and at most 20 % of the characters in such lines."""
    seen: set[str] = set()
    lines = repeated = characters = repeated_characters = 0
    for line in text.split("\n"):
        stripped = line.strip()
        if not stripped:
            continue
        lines += 1
        characters += len(stripped)
        if stripped in seen:
            repeated += 1
            repeated_characters += len(stripped)
        seen.add(stripped)
    return (
        repeated <= MAX_REPEATED_LINES * lines and repeated_characters <= MAX_CHARACTERS_IN_REPEATED_LINES * characters
    )


FILTERS: dict[FilterName, Callable[[str], bool]] = {
    "words": words,
    "word_length": word_length,
    "symbols": symbols,
    "letters": letters,
    "stop_words": stop_words,
    "repeated_lines": repeated_lines,
}
