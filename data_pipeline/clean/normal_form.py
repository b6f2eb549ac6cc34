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
    if len(text) >= _LONG_RUN:
        marks, runs = _marks(form)
        # A long run holds at least one of these characters, so nearly every text is through here.
        if marks.search(text[::_LONG_RUN]):
            text = runs.sub(functools.partial(_in_order, form=form), text)
    return unicodedata.normalize(form, text)


@functools.lru_cache(maxsize=2)
def _marks(form: Form) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of a character that is, or is made of, combining marks, and of a long run of them."""
    found = []
    for number in range(0x300, _PLANES):
        character = chr(number)
        is_mark = unicodedata.combining(character) > 0
        if not is_mark and unicodedata.decomposition(character):
            # U+0F73 and its like count as letters, but consist of marks.
            is_mark = unicodedata.combining(unicodedata.normalize(_decomposed(form), character)[0]) > 0
        if is_mark:
            found.append(character)
    marks = f"[{''.join(found)}]"
    return re.compile(marks), re.compile(f"{marks}{{{_LONG_RUN},}}")


def _in_order(run: re.Match[str], form: Form) -> str:
    decomposed = "".join(_parts(character, form) for character in run.group())
    return "".join(sorted(decomposed, key=unicodedata.combining))


@functools.lru_cache(maxsize=4096)
def _parts(character: str, form: Form) -> str:
    return unicodedata.normalize(_decomposed(form), character)


def _decomposed(form: Form) -> Literal["NFD", "NFKD"]:
    return "NFD" if form == "NFC" else "NFKD"
