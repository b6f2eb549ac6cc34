"""What a look at a text shows: plain values, ready for a page or for JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A token that a masked position could get.

    ``p``: probability under the generator, None without one. ``q``: probability of being drawn, None where the
    corruption draws from no distribution. ``hardness``: q/p, what the sampler makes of p: its estimate of how hard the
    token is for the discriminator, in units of the estimate's mean under p; None where q is p.
    """

    token: str
    id: int
    p: float | None
    q: float | None
    hardness: float | None


@dataclass(frozen=True)
class Others:
    """Tokens that are not shown one by one: how many there are, and their probabilities together."""

    count: int
    p: float | None
    q: float | None


@dataclass(frozen=True)
class MaskedPosition:
    """A position whose token is replaced.

    ``index`` into the tokens of the text; ``original`` and ``drawn`` are among the ``candidates``, which hold the
    likeliest by q and by p, ordered by q; none where the corruption draws from no distribution. ``others``: all tokens
    that are not among them. ``weight``: the factor of the discriminator's loss there in training.
    """

    index: int
    original: Candidate
    drawn: Candidate
    weight: float
    candidates: tuple[Candidate, ...]
    others: Others


@dataclass(frozen=True)
class LookedToken:
    """A position of the text.

    ``token`` as people read it, with ## in front of what continues a word; ``source``: the characters of the text that
    it stands for, empty if they are not known; ``drawn``: what the discriminator is shown instead, None where nothing
    was drawn; ``score``: the probability that the discriminator gives to "replaced", None without a discriminator.
    ``maskable``: it may be masked. ``replaced``: what was drawn is another token than that of the text.
    """

    token: str
    id: int
    source: str
    maskable: bool
    masked: bool
    drawn: str | None
    replaced: bool
    score: float | None


@dataclass(frozen=True)
class Looked:
    """A text, the replacements drawn for it, and what the discriminator says; ``notes`` on how the text was read."""

    tokens: tuple[LookedToken, ...]
    positions: tuple[MaskedPosition, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class About:
    """What is looked into.

    ``name`` as the user wrote it; ``step`` of its run, None for what is no run; ``draws``: a sentence on what
    replacements are drawn from; ``notes``: what cannot be seen there and why; ``generates`` and ``detects``: whether
    replacements can be drawn, and tokens scored; ``longest``: most positions of
    a text with [CLS] and [SEP]; ``mask_share``: share of the tokens that random masks take.
    """

    name: str
    step: int | None
    draws: str
    notes: tuple[str, ...]
    generates: bool
    detects: bool
    longest: int
    mask_share: float
