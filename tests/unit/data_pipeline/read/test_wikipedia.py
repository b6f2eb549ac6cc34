"""Articles of a Wikipedia dump come out as readable text, and what is not an article is counted."""

from __future__ import annotations

import bz2
import gzip
import re
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
import zstandard

from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.read.documents import ReadCounts, read_task
from data_pipeline.read.inputs import find_inputs
from data_pipeline.read.language_variants import without_conversion
from data_pipeline.read.tasks import plan_tasks
from data_pipeline.read.wikitext import MAX_WIKITEXT_BYTES, BadWikitext, plain_text

HIDDEN = frozenset({"file", "image", "category"})

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>dewiki</dbname>
    <base>https://de.wikipedia.org/wiki/Start</base>
    <generator>MediaWiki 1.45.0</generator>
    <case>first-letter</case>
    <namespaces>
      <namespace key="-1" case="first-letter">Spezial</namespace>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">Diskussion</namespace>
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""
TAIL = "</mediawiki>\n"

LIGHTHOUSE = """{{Infobox Tower
| name = Lighthouse
| built = {{start date|1899}}
| table = {|
| cell
|}
}}
The '''lighthouse''' ({{lang|de|Leuchtturm}}; built 1899) stands on ''the rock''<ref name="a">A book, [[page]] 3.</ref>
of [[Heligoland|the island]].<!-- a note -->[[Datei:Tower.jpg|thumb|The [[tower]] at night]]
It is 35&nbsp;m high.<ref name="a" />

== History ==
* The first keeper was [[Anna Smith]].
* The second, see [https://example.org his letters], lived there.

{| class="wikitable"
|-
! Year !! Height
|-
| 1899
|
{|
| inner
|}
|}
The lamp was<br />replaced in 1952.

=== Today ===
Visitors are welcome__NOTOC__. See [[:Kategorie:Towers]].

[[Kategorie:Lighthouses]]
[[en:Lighthouse]]
"""

LIGHTHOUSE_TEXT = """Lighthouse

The lighthouse (built 1899) stands on the rock
of the island.
It is 35 m high.

History

The first keeper was Anna Smith.
The second, see his letters, lived there.

The lamp was

replaced in 1952.

Today

Visitors are welcome. See Kategorie:Towers.
"""


def page(title: str, text: str, namespace: int = 0, redirect: str = "", number: int = 1) -> str:
    target = f'<redirect title="{redirect}" />' if redirect else ""
    return f"""  <page>
    <title>{escape(title)}</title>
    <ns>{namespace}</ns>
    <id>{number}</id>
    {target}
    <revision>
      <id>{number * 10}</id>
      <parentid>{number}</parentid>
      <timestamp>2024-05-01T12:00:00Z</timestamp>
      <contributor><username>Writer</username><id>7</id></contributor>
      <comment>typo</comment>
      <origin>{number * 10}</origin>
      <model>wikitext</model>
      <format>text/x-wiki</format>
      <text bytes="{len(text)}" sha1="phoiac9h4m842xq45sp7s6u21eteeq1" xml:space="preserve">{escape(text)}</text>
      <sha1>phoiac9h4m842xq45sp7s6u21eteeq1</sha1>
    </revision>
  </page>
"""


DUMP = (
    HEAD
    + page("Lighthouse", LIGHTHOUSE)
    + page("Tower of light", "#REDIRECT [[Lighthouse]]", redirect="Lighthouse")
    + page("Diskussion:Lighthouse", "I think so.", namespace=1)
    + page("Empty", "")
    + page("Nothing but a template", "{{stub}}")
    + page("Broken", "<ref>" * 1000)
    + page("Large", "x" * (MAX_WIKITEXT_BYTES + 1))
    + page("Sea & sky", "It's a < b, & ''all'' is well.")
    + TAIL
)


def read(path: Path) -> tuple[list[str], ReadCounts]:
    counts = ReadCounts()
    source = SourceConfig(kind="wikipedia", paths=[str(path)])
    tasks = plan_tasks([source], find_inputs([source]), 1024)
    assert len(tasks) == 1
    return list(read_task(tasks[0], source, counts)), counts


@pytest.mark.parametrize("ending", [".xml", ".xml.bz2", ".xml.gz", ".xml.zst"])
def test_articles_are_read_and_the_rest_is_counted(tmp_path: Path, ending: str) -> None:
    data = DUMP.encode()
    half = len(data) // 2
    packed = {
        ".xml": data,
        # Multistream dumps are many members one after the other.
        ".xml.bz2": bz2.compress(data[:half]) + bz2.compress(data[half:]),
        ".xml.gz": gzip.compress(data),
        ".xml.zst": zstandard.compress(data),
    }[ending]
    path = tmp_path / f"dewiki{ending}"
    path.write_bytes(packed)
    found, counts = read(path)
    assert found == [
        LIGHTHOUSE_TEXT.replace("Lighthouse\n\n", "Lighthouse\n\n", 1),
        "Sea & sky\n\nIt's a < b, & all is well.\n",
    ]
    assert (counts.documents_read, counts.skipped, counts.bad_lines, counts.oversized) == (2, 4, 2, 0)
    assert counts.bytes_read > len(LIGHTHOUSE)
    path.write_bytes(packed[: len(packed) * 2 // 3])
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*restore the file or leave it out") as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_of_several_revisions_the_last_one_counts(tmp_path: Path) -> None:
    one = page("Title", "Old text.")
    newer = one[one.index("<revision>") : one.index("</page>")].replace("Old text.", "Newer text.")
    (tmp_path / "a.xml").write_text(HEAD + one.replace("</page>", newer + "</page>") + TAIL)
    assert read(tmp_path / "a.xml")[0] == ["Title\n\nNewer text.\n"]


@pytest.mark.parametrize(
    "data",
    [
        "",
        "no xml",
        "<html><body/></html>",
        "<mediawiki></mediawiki>",
        HEAD + "<page><title>x</title><strange/></page>" + TAIL,
        HEAD + page("A", "a").replace("<ns>0</ns>", "<ns>zero</ns>") + TAIL,
        HEAD + page("A", "a").replace("<title>A</title>", "<title/>") + TAIL,
        HEAD + page("A", "a").replace("2024-05-01T12:00:00Z", "yesterday") + TAIL,
        HEAD + page("A", "a") + "<page>",
        HEAD + page("A", "a").replace("</title>", "</titel>") + TAIL,
        HEAD.replace("<namespaces>", "<namespaces><strange/>") + page("A", "a") + TAIL,
        HEAD + page("A", "a &#0; b").replace("&amp;", "&") + TAIL,
    ],
)
def test_broken_xml_is_refused_in_one_line(tmp_path: Path, data: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(data)
    with pytest.raises(UserError, match=f"{re.escape(str(path))} is not a readable MediaWiki XML dump"):
        read(path)


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("'''''Both''''' and ''it's'' ''", "Both and it's"),
        ("a ({{x}}) b ({{x}}; c), f(x) main()", "a b (c), f(x) main()"),
        ("; term : definition\n:: indented\n# first", "term definition\nindented\nfirst"),
        ("a<gallery>\nFile:x.jpg|y\n</gallery>b<math>x^2</math>c<nowiki>[[d]]</nowiki>", "abc[[d]]"),
        ("[[a|b ''c'']] [[d]]s [[Image:x|y]] [[fr:e]] [http://x.org] [http://x.org y]", "b c ds y"),
        ("open <!-- to the end\nof it", "open"),
        ("{| never closed\n| a\n\nb", ""),
        ("x\n{|\n| a\n|}\ny {{t|{{u}}}} z", "x\ny z"),
        ("<div>block</div>text<p>new</p>", "block\ntext\nnew"),
        ("&lt;tag&gt; &amp; &euro;&#228;", "<tag> & €ä"),
        ("{{{argument|default}}} text", "text"),
        ("a<p>b</P><p class=x>c<p/>d", "a\nb\n\nc\nd"),
        ("a__NOTOC__ b__KEIN_INHALTSVERZEICHNIS__ __無目錄__c __СОДЕРЖАНИЕ__ __init__ __Ää__", "a b c __init__ __Ää__"),
        ("a<includeonly>b</includeonly><noinclude>c</noinclude>", "ac"),
        ("[[File:x.jpg|thumb|a [[b|c]] [[d]]]]e", "e"),
        ("&amp;nbsp; a&nbsp;b &#x4E2D;", "&nbsp; a b 中"),
        ("<ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp></ruby>字", "漢(かん)字"),
        ("unclosed [[link and {{template and <b", "unclosed [[link and {{template and <b"),
    ],
)
def test_markup_becomes_text(wikitext: str, expected: str) -> None:
    assert plain_text(wikitext, HIDDEN) == expected


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("用-{zh-hans:计算机; zh-hant:電腦;}-写", "用计算机写"),
        ("-{zh-tw:電腦;zh-cn:计算机}-", "電腦"),
        ("這-{里}-，-{iPhone}-", "這里，iPhone"),
        ("-{H|zh-hans:甲;zh-hant:乙}-文-{T|zh-hans:甲;zh-hant:乙}-字-{-|zh-hans:甲}-", "文字"),
        ("-{A|zh-hans:甲;zh-hant:乙}- -{ A;T | zh-hans:甲}- -{|zh-hans:甲;zh-hant:乙}-", "甲 甲 甲"),
        ("-{R|zh-hans:raw}- -{zh-hans;zh-hant|文}-", "zh-hans:raw 文"),
        ("-{zh-hans:[[甲|乙]]的-{内}-;zh-hant:丙}-。", "乙的内。"),
        ("-{甲=>zh-hant:乙}- -{zh-hans:甲=>zh-hant:乙}- -{H|甲=>zh-hant:乙}-文", "甲 甲 文"),
        ("-{zh-hans:a;b &amp; c: d;zh-hant:e}-文", "a;b & c: d文"),
        ("甲-{ {{lang|en|X}} }-乙 甲-{{{lang|en|X}}}-乙", "甲 乙 甲乙"),
        ("文 -{never closed, {{x}}-y", "文 -{never closed, -y"),
        ("}- 文 -{甲}- }-", "}- 文 甲 }-"),
        ("文<nowiki>-{zh-hans:甲}-</nowiki><math>e^{-{x}</math>-{乙}-", "文-{zh-hans:甲}-乙"),
        ("-{sr-ec:Ж;sr-el:Ž}- и", "Ж и"),
        ("1-{(2S)-3-[x]}-pyrrolidine", "1-{(2S)-3-[x]}-pyrrolidine"),
        ("x-{{lang|en|X}}-y", "x--y"),
    ],
)
def test_of_the_variants_of_a_language_the_first_is_taken(wikitext: str, expected: str) -> None:
    assert plain_text(wikitext, HIDDEN) == expected


def test_a_wiki_of_several_scripts_is_known_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "dump.xml"
    for name, expected in (("srwiki", "u A, Ж.\n"), ("enwiki", "u -{A}-, Ж.\n")):
        path.write_text(HEAD.replace("dewiki", name) + page("T", "u -{A}-, -{sr-ec:Ж;sr-el:Ž}-.") + TAIL)
        assert read(path)[0] == ["T\n\n" + expected]


@pytest.mark.parametrize("unit", ["-{", "-{zh-hans:", "}-", "-{{{", "-{;", "-{a;=>", "<nowiki>-{", "-{ ; ; ", "-{x}-"])
def test_conversion_marks_without_end_are_no_work(unit: str) -> None:
    assert without_conversion(unit * 30_000, converts=True)
    assert without_conversion(unit * 20_000 + "}-" * 20_000, converts=True)
    assert without_conversion("-{" + unit * 10_000 + " " * 100_000 + "}-", converts=True) is not None


@pytest.mark.parametrize("unit", ["<ref>", "[http://a ", "{{a|", "<ref ", "[[a|"])
def test_what_would_take_the_parser_hours_is_refused(unit: str) -> None:
    with pytest.raises(BadWikitext):
        plain_text(unit * 100_000, HIDDEN)


def test_paragraphs_without_end_are_no_work() -> None:
    # A pass over the rest of the page for each would take hours.
    assert plain_text("<p>a" * 200_000, HIDDEN).count("a") == 200_000


def test_unclosed_tables_and_comments_are_no_work(tmp_path: Path) -> None:
    assert plain_text("{|\n|-\n| a\n" * 100_000, HIDDEN) == ""
    assert plain_text("<!--" * 400_000, HIDDEN) == ""


def test_missing_packages_are_named_with_their_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xml").write_text(DUMP)
    monkeypatch.setitem(sys.modules, "mwxml", None)
    with pytest.raises(UserError, match=r"mwxml, which is not installed: pip install 'electra-scale\[wikipedia\]'"):
        read(tmp_path / "a.xml")
