"""The draws of a checkpoint on the page: text coloured by the discriminator, and what each position could get."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.tokenize.spelling import CONTINUES
from electra_scale.report.draws import Choice, Example, Examples, Place, Shown
from electra_scale.report.markup import folded, table, text

_SHADES = (0.1, 0.3, 0.5, 0.7, 0.9)
_STRONGEST = 0.75


def example_section(found: Examples) -> str:
    """Markup of the examples of a run."""
    split = "held-out" if found.split == "heldout" else "training"
    scale = "".join(f'<span style="{_shade(value)}">{value:.1f}</span>' for value in _SHADES)
    notes = "".join(f'<p class="quiet">{text(note)}</p>' for note in found.notes)
    shown = [place for row in found.rows for place in row.places if place.drawn.q is not None]
    places = folded("What each masked position could get: p, q and hardness", _places(shown)) if shown else ""
    return (
        f"<p>{len(found.rows)} rows of {split} text, drawn and scored by the checkpoint of step {found.step:,}. "
        f"{text(found.draws)} Where a token was masked, the original is struck through and the draw "
        "stands behind it, with the probability that the discriminator gives to &ldquo;replaced&rdquo;; a draw that "
        "equals the original replaces nothing. The colour is that probability, for every token: "
        f'<span class="scale">{scale}</span></p>\n{notes}' + "\n".join(_example(row) for row in found.rows) + places
    )


def _example(row: Example) -> str:
    parts = []
    for shown in row.tokens:
        parts.append(_token(shown))
    rest = f' <span class="quiet">&hellip; and {row.left_out:,} more tokens</span>' if row.left_out else ""
    return f'<div class="example">{"".join(parts).strip()}{rest}</div>'


def _token(shown: Shown) -> str:
    joined = shown.token.startswith(CONTINUES)
    before, kind = ("", "token joined") if joined else (" ", "token")
    word = text(_bare(shown.token))
    if shown.special:
        return f'{before}<span class="quiet">{word}</span>'
    score = "" if shown.score is None else f' title="replaced: {shown.score:.2f}"'
    style = "" if shown.score is None else f' style="{_shade(shown.score)}"'
    if shown.drawn is None:
        return f'{before}<span class="{kind}"{style}{score}>{word}</span>'
    number = "" if shown.score is None else f" <small>{shown.score:.2f}</small>"
    if not shown.replaced:
        return f'{before}<span class="{kind}"{style}{score}>{word}{number}</span>'
    # A piece of a word in the place of a whole one keeps its mark.
    drawn = text(_bare(shown.drawn) if joined else shown.drawn)
    return f'{before}<span class="{kind} drawn"{style}{score}><s>{word}</s> {drawn}{number}</span>'


def _bare(token: str) -> str:
    return token.removeprefix(CONTINUES) or token


def _shade(score: float) -> str:
    return f"background: rgba(var(--bad), {_STRONGEST * min(1.0, max(0.0, score)):.2f})"


def _places(places: Sequence[Place]) -> str:
    rows = [_row(place) for place in places]
    return (
        "<p>Hardness is q/p at the position: above 1 the sampler draws the token more often than the generator would. "
        "Without a head, or where q is p, it is left out.</p>"
        + table(["original", "drawn", "p", "q", "hardness", "likeliest under q (q; hardness)"], rows, "text narrow")
    )


def _row(place: Place) -> list[str]:
    drawn = place.drawn
    best = ", ".join(f"{text(one.token)} <small>{_chance(one.q)}{_hardness(one)}</small>" for one in place.best)
    hardness = "" if drawn.hardness is None else f"{drawn.hardness:.2f}"
    p = "" if drawn.p is None else _chance(drawn.p)
    return [text(place.original.token), text(drawn.token), p, _chance(drawn.q), hardness, best]


def _chance(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e-")


def _hardness(one: Choice) -> str:
    return "" if one.hardness is None else f"; {one.hardness:.2f}"
