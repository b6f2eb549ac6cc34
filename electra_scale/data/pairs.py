"""Minimal pairs without labels: sentences of held-out text against copies that are wrong in one place.

In one copy two neighbouring words are swapped, in another a word is replaced by one of like frequency. What knows
nothing but words has no preference: the swapped copy has the same words, and the replacement is drawn from the words of
its class in proportion to how often they occur, as the word that it takes the place of was.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

from electra_scale.data.noise import generator_key

KINDS = ("swapped", "replaced")
LEAST_WORDS, MOST_WORDS = 8, 30

_WORD = re.compile(r"[^\W\d_]+(?:['’\-‐‑][^\W\d_]+)*")
_END = re.compile(r"(?<=[.!?])\s+")
# Quotation marks and brackets may be left open at the end of a sentence, and other signs are seldom in prose.
_PLAIN = re.compile(r"[^\W\d_](?:[^\W_]|[ ,;:'’()‐‑–—.\-])*[.!?]")
_ABBREVIATED = re.compile(
    r"(?:^|[\s(.])(?:[^\W\d_]|mr|mrs|ms|dr|st|prof|rev|gen|col|capt|lt|sgt|sen|rep|gov|hon|messrs|jr|sr|vs|cf|al|ca|"
    r"approx|no|nos|vol|vols|pp|fig|figs|ed|eds|inc|ltd|co|corp|dept|univ|mt|ft|jan|feb|aug|sept|oct|nov|dec)\.$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Pair:
    """A sentence and its copy that is wrong in one place; ``kind`` is one of :data:`KINDS`."""

    kind: str
    original: str
    changed: str


def make_pairs(
    documents: Iterable[str], seed: int = 0, most: int | None = None, counted: Iterable[str] = ()
) -> list[Pair]:
    """Pairs of the sentences of ``documents`` that have 8 to 30 words: for each a swapped copy, then a replaced one.

    Which sentences come first, and where each is changed, is a function of ``seed`` and of the sentence, so that the
    same text gives the same pairs whatever lies around it; more pairs begin with the same ones. ``most`` of a kind; all
    if None. The frequency of a word is that in ``documents`` and ``counted``: that of a rare word wants much text.
    """
    counts: Counter[str] = Counter()
    for text in counted:
        counts.update(_WORD.findall(text))
    found: set[str] = set()
    for text in documents:
        counts.update(_WORD.findall(text))
        found.update(sentences(text))
    classes = _Classes(counts)
    made: dict[str, list[Pair]] = {kind: [] for kind in KINDS}
    for sentence in sorted(found, key=lambda one: (generator_key(seed, "sentence", one), one)):
        for kind in KINDS:
            if most is not None and len(made[kind]) >= most:
                continue
            changed = swapped(sentence, seed) if kind == "swapped" else classes.replaced(sentence, seed)
            if changed is not None:
                made[kind].append(Pair(kind, sentence, changed))
        if most is not None and all(len(pairs) >= most for pairs in made.values()):
            break
    return [pair for kind in KINDS for pair in made[kind]]


def sentences(text: str) -> list[str]:
    """The plain sentences of 8 to 30 words in a text, in its order.

    A sentence ends with one of ``.!?`` before white space, but not after an initial or an abbreviation. One with
    quotation marks, square brackets or signs such as ``=`` is left out.
    """
    found = []
    # What follows a line's end is another text.
    for line in text.split("\n"):
        part = ""
        for piece in _END.split(line):
            part = f"{part} {piece}" if part else piece
            if _ABBREVIATED.search(part[-12:]):
                continue
            sentence, part = " ".join(part.split()), ""
            if _PLAIN.fullmatch(sentence) and LEAST_WORDS <= len(_WORD.findall(sentence)) <= MOST_WORDS:
                found.append(sentence)
    return found


def swapped(sentence: str, seed: int) -> str | None:
    """The sentence with two neighbouring words swapped; None if none can be.

    They have one space between them and differ in more than case. The first word of a sentence stays, since its capital
    letter would tell.
    """
    words = list(_WORD.finditer(sentence))
    places = [
        (one, other)
        for one, other in pairwise(words[1:])
        if sentence[one.end() : other.start()] == " " and one.group().casefold() != other.group().casefold()
    ]
    if not places:
        return None
    one, other = places[int(_uniform(seed, "swapped", sentence) * len(places))]
    return f"{sentence[: one.start()]}{other.group()} {one.group()}{sentence[other.end() :]}"


class _Classes:
    """Words of like frequency: those whose counts lie between the same powers of two and that are written alike."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = counts
        self.words: dict[tuple[int, str], list[str]] = {}
        for word in sorted(counts):
            if word.isalpha():
                self.words.setdefault(self._class(word), []).append(word)
        self.ends = {name: list(accumulate(counts[word] for word in words)) for name, words in self.words.items()}

    def replaced(self, sentence: str, seed: int) -> str | None:
        """The sentence with a word replaced by another one of its class; None if there is none for any word."""
        words = [word for word in _WORD.finditer(sentence) if len(self.words.get(self._class(word.group()), ())) > 1]
        words = [word for word in words if word.group().isalpha()]
        if not words:
            return None
        word = words[int(_uniform(seed, "place", sentence) * len(words))]
        instead = self._drawn(word.group(), _uniform(seed, "replaced", sentence))
        return f"{sentence[: word.start()]}{instead}{sentence[word.end() :]}"

    def _drawn(self, word: str, uniform: float) -> str:
        """A word of the class of ``word``, but another one, in proportion to its count."""
        words, ends = self.words[self._class(word)], self.ends[self._class(word)]
        own = words.index(word)
        before = ends[own] - self.counts[word]
        number = int(uniform * (ends[-1] - self.counts[word]))
        return words[bisect_right(ends, number if number < before else number + self.counts[word])]

    def _class(self, word: str) -> tuple[int, str]:
        written = "lower" if word.islower() else "title" if word.istitle() else "other"
        return self.counts[word].bit_length(), written


def _uniform(*key: object) -> float:
    """A number in [0, 1) from a key."""
    return generator_key(*key) / 2.0**64


@dataclass(frozen=True)
class Share:
    """A share of pairs, its standard error, and the number of pairs."""

    value: float
    error: float
    count: int


def share_preferred(original: Iterable[float], changed: Iterable[float]) -> Share:
    """In which share of pairs the true sentence has the higher score; equal scores count a half, and chance is 0.5.

    The error is the standard deviation of these 0, 1/2 and 1 over the square root of their number. NaN without pairs,
    and where a score is not a number.
    """
    both = list(zip(original, changed, strict=True))
    if not both or any(math.isnan(one) or math.isnan(other) for one, other in both):
        return Share(math.nan, math.nan, len(both))
    points = [1.0 if one > other else 0.5 if one == other else 0.0 for one, other in both]
    mean = sum(points) / len(points)
    variance = sum((point - mean) ** 2 for point in points) / len(points)
    return Share(mean, math.sqrt(variance / len(points)), len(points))
