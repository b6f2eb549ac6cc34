"""The markup by which one wiki is shown in several scripts: ``-{zh-hans:A; zh-hant:B}-`` becomes ``A``.

MediaWiki describes it at https://www.mediawiki.org/wiki/Writing_systems/Syntax. Of the variants the first one is
taken, of a one-way rule (``A=>zh-hant:B``) what stands before the arrow. Rules that only change other parts of a page
(the flags ``H``, ``T`` and ``-``), and names of variants (``N``), show nothing.
"""

from __future__ import annotations

import re

# The languages whose wikis convert: there ``-{A}-`` shows A, elsewhere it is plain text, as in names of molecules.
LANGUAGES = frozenset(
    {"ban", "crh", "gan", "iu", "kk", "ku", "mni", "sh", "shi", "sr", "tg", "tly", "uz", "wuu", "zgh", "zh"}
)
# MediaWiki follows no deeper nesting either.
_MOST_NESTED = 10

_VARIANT = rf"(?:{'|'.join(sorted({*LANGUAGES, 'ike'}))})(?:-[a-z]+)*"
_MARK = re.compile(r"-?\{+|\}+-?|<(nowiki|math|pre|source|syntaxhighlight)\b[^<>]*>", re.IGNORECASE)
_FLAG = rf"\s*(?:(?:[ADHNRST+-]|{_VARIANT})\s*)?"
_FLAGS = re.compile(rf"({_FLAG}(?:;{_FLAG})*)\|")
_NEXT_RULE = re.compile(rf";(?=(?:[^;]*=>)?\s*{_VARIANT}\s*:)")
_RULE = re.compile(rf"\s*{_VARIANT}\s*:(.*)", re.DOTALL)
_ONE_WAY = re.compile(rf"(.*?)=>\s*{_VARIANT}\s*:", re.DOTALL)
_HAN = re.compile("[\u3400-\u9fff]")


def without_conversion(wikitext: str, converts: bool) -> str:
    """The wikitext with one variant in place of each conversion; what is never closed stays as it is.

    Args:
        converts: the wiki's language is one of :data:`LANGUAGES`. Marks that name variants or flags count on any wiki,
            others only there or on a page with Chinese characters.
    """
    if "-{" not in wikitext:
        return wikitext
    return _Conversion(converts or _HAN.search(wikitext) is not None).text(wikitext)


class _Conversion:
    """One pass over a page, with what is open at the moment."""

    def __init__(self, converts: bool) -> None:
        self._converts = converts
        self._parts: list[str] = []
        # Open marks: a number of braces of templates, or None for a conversion; then the places of conversions.
        self._open: list[int | None] = []
        self._begins: list[int] = []

    def text(self, wikitext: str) -> str:
        never_closed: set[str] = set()
        position = 0
        while mark := _MARK.search(wikitext, position):
            self._parts.append(wikitext[position : mark.start()])
            position = mark.end()
            found = mark.group()
            if mark.group(1):
                # What such a tag holds is no markup.
                tag = mark.group(1).lower()
                if not found.endswith("/>") and tag not in never_closed:
                    if closing := re.compile(f"</{tag}", re.IGNORECASE).search(wikitext, position):
                        found += wikitext[position : closing.start()]
                        position = closing.start()
                    else:
                        never_closed.add(tag)
                self._parts.append(found)
            elif "{" in found:
                self._opens(found)
            else:
                self._closes(found)
        self._parts.append(wikitext[position:])
        return "".join(self._parts)

    def _opens(self, mark: str) -> None:
        braces = mark.count("{")
        if mark[0] == "-" and braces % 2 and len(self._begins) < _MOST_NESTED:
            self._open.append(None)
            self._begins.append(len(self._parts))
            self._parts.append("-{")
            mark, braces = mark[2:], braces - 1
        self._parts.append(mark)
        if braces > 1:
            self._open.append(braces)

    def _closes(self, mark: str) -> None:
        braces = mark.count("}")
        while braces and self._open:
            inner = self._open[-1]
            if inner is None:
                if braces == 1 and mark[-1] == "-":
                    self._open.pop()
                    begin = self._begins.pop()
                    content = "".join(self._parts[begin + 1 :])
                    self._parts[begin:] = [self._shown(content)]
                    return
                self._parts.append("}")
                braces -= 1
            elif braces > 1:
                closed = min(inner, braces)
                self._parts.append("}" * closed)
                braces -= closed
                self._open.pop()
                if inner - closed > 1:
                    self._open.append(inner - closed)
            else:
                break
        self._parts.append(mark[len(mark) - braces - (mark[-1] == "-") :])

    def _shown(self, content: str) -> str:
        found = _FLAGS.match(content)
        flags = {flag.strip() for flag in found.group(1).split(";")} if found else set()
        rules = content[found.end() :] if found else content
        if "R" in flags:
            return rules
        if flags & {"H", "N", "-"} or flags == {"T"}:
            return ""
        first = _NEXT_RULE.split(rules, maxsplit=1)[0]
        one_way = _ONE_WAY.match(first)
        if one_way:
            first = one_way.group(1)
        rule = _RULE.match(first)
        if rule:
            return rule.group(1).strip(" \n\t;")
        if one_way:
            return first.strip()
        return rules if found or self._converts else f"-{{{content}}}-"
