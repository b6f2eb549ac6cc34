"""Figures of matplotlib as SVG text for inside a page: colours that follow the page's, text as text, described."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that stand for the page's variables while matplotlib draws; no plot has them otherwise.
INK, QUIET, GRID, PAPER = "#010203", "#010204", "#010205", "#010206"
SERIES = tuple(f"#01020{number:x}" for number in range(8, 16))
_VARIABLES = {INK: "--ink", QUIET: "--quiet", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--s{number}" for number, colour in enumerate(SERIES)
}

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "electra-scale",
    # Text stays text: smaller, and it can be searched and selected.
    "svg.fonttype": "none",
    # A dollar sign in a name does not start a formula.
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.labelsize": 11,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "lines.linewidth": 1.8,
    "hatch.linewidth": 0.6,
}

_NUMBERS = re.compile(r'\b(d|x|y|x1|x2|y1|y2|transform|width|height)="([^"]*)"')
_LONG = re.compile(r"-?\d+\.\d{3,}(?![\de])")


def svg_text(figure: Figure, name: str, title: str, description: str) -> str:
    """The SVG of a figure, for inlining.

    Args:
        name: a word that no other figure of the page has; it begins the ids of the parts.
        title: what a screen reader calls the picture.
        description: what it reads out about it.
    """
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    head, _, body = text.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    # Groups have ids that nothing names.
    named = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in named else "", body)
    body = re.sub(r'(xlink:href="|url\()#', rf"\g<1>#{name}-", body)
    body = _NUMBERS.sub(lambda found: f'{found[1]}="{_LONG.sub(_rounded, found[2])}"', body)
    body = re.sub(r"(font: (?:\w+ )*[\d.]+px) [^;\"]*", r"\g<1> var(--font)", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return (
        f'<svg {box[0] if box else ""} xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'role="img" aria-labelledby="{name}-title {name}-text"><title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-text">{html.escape(description)}</desc>{body.strip()}'
    )


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
