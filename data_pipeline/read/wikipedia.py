"""Articles of a Wikipedia XML dump as plain text, through mwxml (the dump) and mwparserfromhell (the wikitext)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, NamedTuple
from xml.etree.ElementTree import ParseError

from data_pipeline.errors import UserError
from data_pipeline.extras import needs_extra
from data_pipeline.read.language_variants import LANGUAGES
from data_pipeline.read.tasks import ReadCounts
from data_pipeline.read.wikitext import BadWikitext, plain_text, wikitext_parser

_ARTICLES, _FILES, _CATEGORIES = 0, 6, 14
# What a dump's own names for these namespaces are added to: these work on every wiki.
_CANONICAL = ("file", "image", "media", "category")


def articles(file: BinaryIO, location: str, counts: ReadCounts) -> Iterator[str]:
    """Title and text of each article of a decompressed dump, in order; ``location`` is for messages.

    Pages of other namespaces, redirects and pages without text count as skipped, wikitext that can't be parsed as
    bad lines.

    Raises:
        UserError: the file is not an XML dump or its XML is broken, or mwxml or mwparserfromhell is not installed.
    """
    wikitext_parser()
    for title, text, site in _pages(file, location):
        if not text or text.isspace():
            counts.skipped += 1
            continue
        counts.records += 1
        counts.bytes_read += len(text.encode("utf-8", "replace"))
        try:
            plain = plain_text(text, site.hidden, site.converts)
        except BadWikitext:
            counts.leave_out("bad_page", f"page {title!r}")
            continue
        if plain:
            yield f"{title}\n\n{plain}\n"
        else:
            counts.skipped += 1


class _Site(NamedTuple):
    """What pages of a wiki share: the namespaces of hidden links, and whether it is shown in several scripts."""

    hidden: frozenset[str]
    converts: bool


def _pages(file: BinaryIO, location: str) -> Iterator[tuple[str, str | None, _Site]]:
    """Title and newest wikitext of every page, None where it is not an article, and its wiki."""
    with needs_extra("wikipedia", "mwxml", "a source of kind wikipedia", "leave the source out"):
        from mwxml import Dump
        from mwxml.element_iterator import ElementIterator
        from mwxml.errors import MalformedXML
    title = None
    try:
        root = ElementIterator.from_file(file)
        dump = Dump.from_element(root)
        language, _, _ = (dump.site_info.dbname or "").partition("wik")
        site = _Site(_hidden_prefixes(dump.site_info.namespaces or ()), language in LANGUAGES)
        for page in dump.pages:
            title = page.title
            text = _newest_text(page)
            # The tree would keep an empty element for every page of the dump.
            del root.element[:]
            yield title, text if page.namespace == _ARTICLES and page.redirect is None else None, site
    # What mwxml raises over elements that are missing, misplaced, empty or no numbers where the format has them.
    except (ParseError, MalformedXML, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        where = f"after page {title!r}" if title is not None else "at its start"
        raise UserError(
            f"{location} is not a readable MediaWiki XML dump ({where}: {error}): restore the file or leave it out"
        ) from error


def _newest_text(page: Any) -> str | None:
    text = None
    for revision in page:
        text = revision.text
    return text


def _hidden_prefixes(namespaces: Collection[Any]) -> frozenset[str]:
    """Lower-case names of the namespaces whose links show no text of their own: files and categories."""
    own = {space.name.lower() for space in namespaces if space.id in (_FILES, _CATEGORIES) and space.name}
    return frozenset(own.union(_CANONICAL))
