"""Unicode normal forms in linear time.

``unicodedata.normalize`` puts the marks of a run into their order by insertion, which takes the square of the run's
length: half a minute for 40,000 marks. Sorting a long run first changes no result, since normalization starts with
that order, and leaves nothing to insert.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Literal

Form = Literal["NFC", "NFKC"]

# A shorter run costs little.
_LONG_RUN = 256
# Marks and what consists of them lie in the first two planes.
_PLANES = 0x20000


def normal_form(text: str, form: Form) -> str:
    """What ``unicodedata.normalize(form, text)`` returns."""
    # A long run holds at least one of these characters, so nearly every text is left as it is. None in ASCII is a mark.
    some = text[::_LONG_RUN]
    if not some.isascii() and len(text) >= _LONG_RUN and any(_is_of_marks(one, form) for one in set(some)):
        text = _long_runs(form).sub(functools.partial(_in_order, form=form), text)
    return unicodedata.normalize(form, text)


@functools.lru_cache(maxsize=1 << 14)
def _is_of_marks(character: str, form: Form) -> bool:
    """Whether a character is, or is made of, combining marks."""
    if unicodedata.combining(character):
        return True
    # U+0F73 and its like count as letters, but consist of marks.
    consists = bool(unicodedata.decomposition(character))
    return consists and unicodedata.combining(unicodedata.normalize(_decomposed(form), character)[0]) > 0


@functools.lru_cache(maxsize=2)
def _long_runs(form: Form) -> re.Pattern[str]:
    """Pattern of a long run of marks. Made where one may be: looking at all characters takes a tenth of a second."""
    marks = "".join(character for character in map(chr, range(0x300, _PLANES)) if _is_of_marks(character, form))
    return re.compile(f"[{marks}]{{{_LONG_RUN},}}")


def _in_order(run: re.Match[str], form: Form) -> str:
    decomposed = "".join(_parts(character, form) for character in run.group())
    return "".join(sorted(decomposed, key=unicodedata.combining))


@functools.lru_cache(maxsize=4096)
def _parts(character: str, form: Form) -> str:
    return unicodedata.normalize(_decomposed(form), character)


def _decomposed(form: Form) -> Literal["NFD", "NFKD"]:
    return "NFD" if form == "NFC" else "NFKD"
