"""Wikitext to plain text, through mwparserfromhell."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from data_pipeline.extras import needs_extra
from data_pipeline.read.language_variants import without_conversion

# MediaWiki saves no larger page ($wgMaxArticleSize); the parser's time grows faster than the text.
MAX_WIKITEXT_BYTES = 2 << 20
# Each bracket or tag that is never closed costs the parser one more pass over the rest of the page.
MAX_UNCLOSED = 50

# fmt: off
_REMOVED_TAGS = frozenset({
    "ref", "references", "table", "gallery", "math", "chem", "ce", "timeline", "imagemap", "score", "hiero",
    "templatestyles", "graph", "mapframe", "maplink", "section", "indicator", "categorytree", "syntaxhighlight",
    "source", "style", "script", "includeonly",
})
# fmt: on
_LINE_TAGS = frozenset({"br", "hr", "div", "li", "dt", "dd", "blockquote", "center"})
_TABLE_BEGIN = re.compile(r"[ \t:*#]*\{\|(?!\})")
_TABLE_END = re.compile(r"[ \t]*\|\}(?!\})")
_COMMENT = re.compile(r"<!--|-->")
_BRACKET = re.compile(r"(\[\[?|\{\{+)|(\]\]?|\}\}+)|<(/?)([a-zA-Z]+)([^<>]*>)?")
_NEVER_CLOSED = frozenset({"br", "hr", "wbr", "img", "li", "dt", "dd"})
# Capitals, or a script without: many wikis have names of their own for these.
_SWITCH = re.compile(r"__[^\W\d_a-z]+(?:_[^\W\d_a-z]+)*__")
# The parser goes through the rest of the page for each that is not closed, and hardly any is.
_PARAGRAPH = re.compile(r"</?p(?:\s[^<>]*)?/?>", re.IGNORECASE)
_LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(-[a-z]+)*:\S")
# What a removed template leaves of "(pronounced {{IPA|...}}; born ...)".
_EMPTY_PARENTHESES = re.compile(r" \([\s,;:]*\)(?=[\s,.;:]|$)")
_LEADING_SEPARATOR = re.compile(r"\([\s,;:]+(?=\S)")
_BLANKS = re.compile(r"[ \t\u00a0]+")
_LINE_BLANKS = re.compile(r" *\n *")
_EMPTY_LINES = re.compile(r"\n{3,}")


class BadWikitext(Exception):
    """The text can't be parsed, or not in reasonable time."""


@functools.lru_cache(maxsize=1)
def wikitext_parser() -> Any:
    """The module mwparserfromhell.

    Raises:
        UserError: it is not installed.
    """
    with needs_extra("wikipedia", "mwparserfromhell", "a source of kind wikipedia", "leave the source out"):
        import mwparserfromhell
    return mwparserfromhell


def plain_text(wikitext: str, hidden: frozenset[str], converts: bool = False) -> str:
    """The readable text: headings and lists stay; templates, tables, references, files and categories go.

    Args:
        wikitext: a page's source.
        hidden: lower-case namespace names whose links show nothing, such as file and category.
        converts: the wiki is written in several scripts, see :func:`without_conversion`.

    Raises:
        BadWikitext: it is too large or too broken to be parsed.
    """
    if len(wikitext) > MAX_WIKITEXT_BYTES:
        raise BadWikitext
    wikitext = _without_tables(without_conversion(_without_comments(wikitext), converts))
    wikitext = _PARAGRAPH.sub("\n", wikitext)
    if _unclosed(wikitext) > MAX_UNCLOSED:
        raise BadWikitext
    parser = wikitext_parser()
    try:
        parts = list(_texts(parser.nodes, parser.parse(wikitext, skip_style_tags=True), hidden))
    except (parser.parser.ParserError, ValueError, RecursionError) as error:
        raise BadWikitext from error
    text = "".join(parts).replace("'''", "").replace("''", "")
    text = _SWITCH.sub(lambda found: "" if found.group() == found.group().upper() else found.group(), text)
    text = _LEADING_SEPARATOR.sub("(", _EMPTY_PARENTHESES.sub("", text))
    text = _LINE_BLANKS.sub("\n", _BLANKS.sub(" ", text))
    return _EMPTY_LINES.sub("\n\n", text).strip()


def _without_comments(text: str) -> str:
    kept: list[str] = []
    begin, inside = 0, False
    for match in _COMMENT.finditer(text):
        opens = match.group() == "<!--"
        if opens and not inside:
            kept.append(text[begin : match.start()])
            inside = True
        elif inside and not opens:
            begin, inside = match.end(), False
    # A comment that is never closed reaches to the end of the page, as on the wiki.
    return "".join(kept) if inside else "".join([*kept, text[begin:]])


def _without_tables(text: str) -> str:
    """Tables, nested ones too, cut out by lines: the parser needs seconds for a large or a broken one."""
    if "{|" not in text:
        return text
    kept: list[str] = []
    depth = 0
    for line in text.split("\n"):
        if _TABLE_BEGIN.match(line):
            depth += 1
        elif depth and (end := _TABLE_END.match(line)):
            depth -= 1
            if not depth and line[end.end() :].strip():
                kept.append(line[end.end() :])
        elif not depth:
            kept.append(line)
    return "\n".join(kept)


def _unclosed(text: str) -> int:
    """How many brackets and tags are opened and never closed."""
    brackets = 0
    tags: dict[str, int] = {}
    for match in _BRACKET.finditer(text):
        if match.group(1):
            brackets += 1
        elif match.group(2):
            brackets = max(0, brackets - 1)
        elif match.group(5) is None:
            brackets += 1
        elif not match.group(5).endswith("/>"):
            name = match.group(4).lower()
            tags[name] = max(0, tags.get(name, 0) + (-1 if match.group(3) else 1))
    return brackets + sum(number for name, number in tags.items() if name not in _NEVER_CLOSED)


def _texts(nodes: Any, code: Any, hidden: frozenset[str]) -> Iterator[str]:
    for node in code.nodes:
        if isinstance(node, nodes.Text):
            yield str(node.value)
        elif isinstance(node, nodes.Wikilink):
            yield from _link_texts(nodes, node, hidden)
        elif isinstance(node, nodes.Heading):
            yield "\n"
            yield from _texts(nodes, node.title, hidden)
            yield "\n"
        elif isinstance(node, nodes.HTMLEntity):
            yield str(node.normalize())
        elif isinstance(node, nodes.ExternalLink):
            # In brackets without a title the wiki shows a number only.
            if node.title is not None:
                yield from _texts(nodes, node.title, hidden)
            elif not node.brackets:
                yield str(node.url)
        elif isinstance(node, nodes.Tag):
            yield from _tag_texts(nodes, node, hidden)


def _tag_texts(nodes: Any, node: Any, hidden: frozenset[str]) -> Iterator[str]:
    name = str(node.tag).strip().lower()
    if name in _REMOVED_TAGS:
        return
    # List marks of wikitext stand at the start of a line already.
    breaks = name in _LINE_TAGS and node.wiki_markup is None
    if breaks:
        yield "\n"
    if node.contents is not None:
        yield from _texts(nodes, node.contents, hidden)
        if breaks:
            yield "\n"


def _link_texts(nodes: Any, node: Any, hidden: frozenset[str]) -> Iterator[str]:
    title = str(node.title).strip()
    prefix, colon, _ = title.partition(":")
    if colon and prefix and prefix.strip().lower() in hidden:
        return
    if node.text is not None:
        yield from _texts(nodes, node.text, hidden)
    elif not _LANGUAGE_LINK.match(title):
        yield title.removeprefix(":")
