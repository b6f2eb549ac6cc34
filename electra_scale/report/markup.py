"""Small pieces of HTML. Text from outside goes through :func:`text`, and nothing else makes markup of it."""

from __future__ import annotations

import html
from collections.abc import Sequence


def text(value: object) -> str:
    """Any value as text of a page; characters that cannot be shown by their numbers."""
    shown = "".join(letter if letter.isprintable() or letter in "\n\t" else _spelled(letter) for letter in str(value))
    return html.escape(shown)


def _spelled(letter: str) -> str:
    return f"\\u{{{ord(letter):x}}}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table that scrolls by itself where it is wider than the screen; cells are markup.

    ``kind``: classes of the style sheet: "text" for cells of words, "narrow" for cells that are not broken.
    """
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "\n".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="table"><table class="{kind}"><thead><tr>{top}</tr>'
        f"</thead><tbody>\n{body}\n</tbody></table></div>"
    )


def folded(summary: str, content: str) -> str:
    """Content that the reader opens; both are markup."""
    return f"<details><summary>{summary}</summary>\n{content}\n</details>"


def bullets(lines: Sequence[str]) -> str:
    """A list of lines, which are text."""
    return f"<ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>" if lines else ""


def letter(number: int) -> str:
    """The name of a run on a page of several: A to Z, then A2 and so on."""
    return f"{chr(ord('A') + number % 26)}{number // 26 + 1 if number >= 26 else ''}"


def key(number: int) -> str:
    """A swatch in the colour of a run."""
    return f'<span class="key k{number % 8}" aria-hidden="true"></span>'
