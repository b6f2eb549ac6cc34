"""Words of a text, also where it is written without blanks: there a character stands for a word.

Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan and a few related scripts put no blank between words, so that a
run of characters between blanks may be a sentence. A run that holds more than :data:`MOST_IN_A_WORD` characters of
these scripts is taken apart: into its characters, each with its marks and the punctuation at it, and into Tibetan
syllables. Any other run is one word, so that nothing changes for text with blanks, nor for text that was divided
into words beforehand.
"""

from __future__ import annotations

import re

MOST_IN_A_WORD = 4

# First and last code point of each script written without blanks; Korean has them.
_SCRIPTS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x3005, 0x3007),  # iteration marks and zero of Chinese and Japanese
    (0x3021, 0x3029),
    (0x3031, 0x3035),
    (0x3041, 0x312F),  # kana, Bopomofo
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Chinese characters
    (0x4E00, 0x9FFF),
    (0xA000, 0xA4CF),  # Yi
    (0xA980, 0xA9DF),  # Javanese
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAADF),  # Burmese, Tai Viet
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x3FFFF),
)
# First bytes of these in UTF-8: a text that has none of them needs no search. European text has none.
_FIRST_BYTES = bytes((0xE0, 0xE1, *range(0xE3, 0xF4)))
_OTHER_BYTES = bytes(set(range(256)) - set(_FIRST_BYTES))

_CHARACTER = "".join(f"{chr(first)}-{chr(last)}" for first, last in _SCRIPTS)
_WITHOUT_BLANKS = re.compile(f"[{_CHARACTER}]")
# Marks of vowels and tones are neither letters nor digits, and so they stay with their letter like punctuation.
_PIECE = re.compile(rf"[^\w\s]*[{_CHARACTER}][^\w\s]*|[^\s{_CHARACTER}]+")
_TIBETAN = re.compile("[\u0f00-\u0fff]")
# Between Tibetan syllables stands a dot; a zero-width space may stand between words of any of these scripts.
_SYLLABLE_ENDS = re.compile("[\u0f0b-\u0f14\u200b]+")


def _lacks_blanks(text: str) -> bool:
    """Whether a text holds a character of a script without blanks."""
    if text.isascii():
        return False
    if not text.encode("utf-8", "surrogatepass").translate(None, _OTHER_BYTES):
        return False
    return _WITHOUT_BLANKS.search(text) is not None


def words_of(text: str) -> tuple[list[str], int]:
    """The words of a text in order, and how many of them come from runs that were taken apart."""
    found = text.split()
    if not _lacks_blanks(text):
        return found, 0
    words: list[str] = []
    apart = 0
    for run in found:
        pieces = taken_apart(run)
        if pieces is None:
            words.append(run)
        else:
            words += pieces
            apart += len(pieces)
    return words, apart


def taken_apart(run: str) -> list[str] | None:
    """The pieces of a run between blanks; None where it is one word."""
    if run.isascii() or len(run) <= MOST_IN_A_WORD or len(_WITHOUT_BLANKS.findall(run)) <= MOST_IN_A_WORD:
        return None
    pieces: list[str] = []
    for part in _SYLLABLE_ENDS.split(run):
        if _TIBETAN.search(part):
            pieces.append(part)
        else:
            pieces += _PIECE.findall(part)
    return pieces
