"""Plain prose out of HTML pages, a dictionary and a wiki dump: the demo corpus's extractors and filter."""

from __future__ import annotations

import gzip
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_pipeline.extras import needs_extra

# Index and change-log pages above this are lists, not prose, and cost seconds each.
MAX_PAGE_BYTES = 4 << 20

_SMALL_WORDS = """
the of and to in a is that for it as was with be by on not he i this are or his from at which but have an had
they you were their one all we can her has there been if more when will would who so no what up out its than
them may such any these into only other some do also
"""
_STOP_WORDS = frozenset(_SMALL_WORDS.split())
_PUNCTUATION = ".,;:!?()[]\"'“”‘’"

_ENTRY = re.compile(r"^(?P<word>[^\s\\\[(][^\\\[(]{0,60}?)\s*(?:\\|\[|\()", re.MULTILINE)
_BRACKETS = re.compile(r"\[[^\[\]]*\]")
_PRONUNCIATION = re.compile(r"\\[^\\]*\\")
_SENSE = re.compile(r"(?:^|\s)(?:\d{1,2}|\([a-z]\))\.?\s+(?=[A-Z\"(])")
_GROUP_CHARACTERS = 4000

_TITLE = re.compile(r"^ ?= ([^=].*[^=]) = ?$")
_HEADING = re.compile(r"^ ?(?:= ){2,}.*$")


def is_prose(paragraph: str) -> bool:
    """True for running English text: long enough, mostly letters, and with its share of small words."""
    if not 60 <= len(paragraph) <= 20_000:
        return False
    words = paragraph.lower().split()
    if len(words) < 10:
        return False
    letters = sum(map(str.isalpha, paragraph)) + paragraph.count(" ")
    if letters < 0.82 * len(paragraph):
        return False
    return sum(word.strip(_PUNCTUATION) in _STOP_WORDS for word in words) >= 0.22 * len(words)


def html_paragraphs(page: bytes) -> list[str]:
    """Text blocks of a page's main content, one string each, without navigation, tables and page furniture.

    Raises:
        UserError: trafilatura is not installed.
    """
    with needs_extra("demo", "trafilatura", "the demo corpus"):
        import trafilatura
    # It reports pages without text as errors; here they are pages without prose.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    text = trafilatura.extract(page, fast=True, include_comments=False, include_tables=False)
    return [" ".join(line.replace("¶", " ").split()) for line in (text or "").split("\n") if line.strip()]


def page_paragraphs(path: Path) -> list[str]:
    """Prose paragraphs of one HTML file; none when it is too large to be prose."""
    if path.stat().st_size > MAX_PAGE_BYTES:
        return []
    return [block for block in html_paragraphs(path.read_bytes()) if is_prose(block)]


def dictionary_documents(path: Path) -> Iterator[list[str]]:
    """Neighbouring entries of a dictd dictionary of the GCIDE family, grouped into readable documents."""
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        text = file.read()
    group: list[str] = []
    size = 0
    for entry in _entries(text):
        if not is_prose(entry):
            continue
        group.append(entry)
        size += len(entry)
        if size >= _GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _entries(text: str) -> Iterator[str]:
    """One paragraph per entry: the headword, then its senses."""
    lines: list[str] = []
    for line in text.splitlines():
        # Headwords start at the margin, their text is indented.
        if line[:1].strip() and lines:
            yield _entry_paragraph(lines)
            lines = []
        lines.append(line)
    if lines:
        yield _entry_paragraph(lines)


def _entry_paragraph(lines: list[str]) -> str:
    found = _ENTRY.match(lines[0])
    if found is None:
        return ""
    text = _PRONUNCIATION.sub(" ", "\n".join(lines))
    # Etymologies nest brackets and run over lines; the line break that ends the heading must survive them.
    removed = 1
    while removed:
        text, removed = _BRACKETS.subn(lambda match: "\n" if "\n" in match[0] else " ", text)
    _, _, body = text.partition("\n")
    body = body.replace("{", "").replace("}", "")
    body = " ".join(_SENSE.sub(" ", body).split())
    return f"{found['word'].strip()}: {body}" if body else ""


def wikitext_documents(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Title and prose paragraphs of each article in WikiText's raw lines."""
    title = ""
    paragraphs: list[str] = []
    for line in lines:
        found = _TITLE.match(line.rstrip("\n"))
        if found:
            if paragraphs:
                yield title, paragraphs
            title, paragraphs = found[1].strip(), []
        elif not _HEADING.match(line):
            text = " ".join(re.sub(r" @(.)@ ", r"\1", line).split())
            if is_prose(text):
                paragraphs.append(text)
    if paragraphs:
        yield title, paragraphs
