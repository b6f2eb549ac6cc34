"""The report is one page without outside parts, shows the numbers of the store, and is the same each time."""

from __future__ import annotations

import dataclasses
import html
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.report.page import removed_counts, write_report
from data_pipeline.store.manifest import Manifest, load_manifest
from data_pipeline.store.shard import open_shard
from tests.unit.data_pipeline.report.test_verify import rewrite


@pytest.fixture(autouse=True)
def _matplotlib(require_part: Callable[[bool, str], None]) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        require_part(False, "pip install 'electra-scale[report]'")


class _Page(HTMLParser):
    """Tables as lists of rows, and every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._cell: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append(self._cell)
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell is not None:
            self._cell += data


def page_of(store: str | Path, out: Path) -> _Page:
    write_report(store, out)
    return _Page(out.read_text("utf-8"))


def _number(cell: str) -> float:
    return float(cell.replace(",", ""))


def test_the_page_shows_the_numbers_of_the_store(store: Path, tmp_path: Path) -> None:
    manifest = load_manifest(open_place(store))
    page = page_of(store, tmp_path / "report.html")
    lengths = [open_shard(store / entry.name) for entry in manifest.split("train")]
    exact = np.concatenate([np.diff(shard.offsets) for shard in lengths])
    table = next(table for table in page.tables if table[0][1] == "shortest")
    train = dict(zip(table[0], table[1], strict=True))
    assert train["tokens"] == "train"
    assert _number(train["shortest"]) == exact.min()
    assert _number(train["longest"]) == exact.max()
    assert _number(train["median"]) == np.percentile(exact, 50, method="inverted_cdf")
    assert _number(train["95 %"]) == np.percentile(exact, 95, method="inverted_cdf")
    assert _number(train["mean"]) == pytest.approx(exact.mean(), abs=0.06)
    assert [row[0] for row in table] == ["tokens", "train", "heldout"]

    counts = np.sort(np.load(store / "token_counts.npy"))[::-1]
    cover = next(table for table in page.tables if table[0][1] == "share of the text")
    assert cover[1] == ["10", f"{100 * counts[:10].sum() / counts.sum():.2f} %"]
    assert cover[-1][0] == f"all {(counts > 0).sum()} that occur"

    sources = next(table for table in page.tables if table[0][0] == "source")
    assert sources[1][:4] == ["main", f"{len(exact):,}", f"{exact.sum():,}", "100.00 %"]
    shards = next(table for table in page.tables if table[0][0] == "shard")
    assert [row[0] for row in shards[1:]] == [shard.name for shard in manifest.shards]
    assert manifest.fingerprint in page.text
    assert '"task_bytes": 4096' in page.text
    for name in removed_counts(manifest):
        assert name in page.text


def test_fertility_is_shown_where_the_counts_allow_it(store: Path, tmp_path: Path) -> None:
    counts = dict(load_manifest(open_place(store)).counts)
    del counts["words"], counts["characters"]
    rewrite(store, counts=counts)
    assert "tokens per word" not in page_of(store, tmp_path / "a.html").text
    rewrite(store, counts=counts | {"words": 2 * counts["tokens"], "characters": 7 * counts["tokens"]})
    text = page_of(store, tmp_path / "b.html").text
    assert "tokens per word (fertility)0.500" in text
    assert "characters per token7.00" in text


def test_what_was_removed_is_listed_in_the_order_a_document_meets_it(store: Path) -> None:
    manifest = load_manifest(open_place(store))
    clean = manifest.settings["clean"] | {"filters": ["words", "symbols"]}
    names = [
        "without_tokens",
        "near_duplicates",
        "filter_symbols",
        "filter_words",
        "new",
        "bad_lines",
        "tokens",
        "words",
    ]
    changed = dataclasses.replace(
        manifest,
        settings=manifest.settings | {"clean": clean},
        counts={name: index for index, name in enumerate(names)},
    )
    assert removed_counts(changed) == {
        "bad_lines": 5,
        "filter_words": 3,
        "filter_symbols": 2,
        "new": 4,
        "near_duplicates": 1,
        "without_tokens": 0,
    }


def test_the_page_needs_no_network_and_runs_nothing(store: Path, tmp_path: Path) -> None:
    page = page_of(store, tmp_path / "report.html")
    assert sum(tag == "svg" for tag, _ in page.tags) == 3
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"src", "href", "onload", "onclick"} & attributes.keys() or attributes.get("href", "").startswith(
            "#"
        )
        assert (attributes.get("xlink:href") or "#").startswith("#")
    assert re.findall(r"url\((?!#)", (tmp_path / "report.html").read_text("utf-8")) == []


def _hostile(manifest: Manifest, text: str) -> dict[str, Any]:
    shards = [dataclasses.replace(shard, source=text) for shard in manifest.shards]
    return {
        "shards": shards,
        "settings": manifest.settings | {text: text},
        "counts": manifest.counts | {f"filter_{text}": 3},
    }


def test_names_cannot_smuggle_markup_into_the_page(store: Path, tmp_path: Path) -> None:
    text = "</pre><script>alert('1')</script><b a=\"$\\frac{1}$\">&amp;"
    folder = tmp_path / "<script>alert(2)"
    store.rename(folder)
    rewrite(folder, **_hostile(load_manifest(open_place(folder)), text))
    page = page_of(folder, tmp_path / "report.html")
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    raw = (tmp_path / "report.html").read_text("utf-8")
    assert html.escape(text) in raw
    assert html.escape("<script>alert(2)") in raw


def test_the_same_store_gives_the_same_bytes_from_a_folder_and_from_a_bucket(
    store: Path, s3: str, tmp_path: Path
) -> None:
    place = open_place(f"{s3}/store")
    for path in store.rglob("*"):
        if path.is_file():
            place.put_file(str(path.relative_to(store)), path)
    for name, url in (("a", str(store)), ("b", str(store)), ("c", place.url)):
        write_report(url, tmp_path / "new" / f"{name}.html")
    pages = [(tmp_path / "new" / f"{name}.html").read_text("utf-8") for name in "abc"]
    assert pages[0] == pages[1]
    assert pages[0].replace(str(store), "STORE") == pages[2].replace(place.url, "STORE")


def test_a_report_that_cannot_be_made_is_one_line(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file" / "report.html"):
        with pytest.raises(UserError, match="cannot write"):
            write_report(store, out)
    (store / "token_counts.npy").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"token_counts\.npy can't be read"):
        write_report(store, tmp_path / "report.html")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'electra-scale\[report\]'"):
        write_report(store, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
