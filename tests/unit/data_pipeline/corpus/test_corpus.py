"""The demo corpus is prose, lists where it came from, and is fetched once."""

from __future__ import annotations

import gzip
import json
import math
import socket
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.cli import main
from data_pipeline.corpus import fetch as corpus_module
from data_pipeline.corpus.debian import PACKAGES, Package, choose_packages, fetch_packages, resolve_names
from data_pipeline.corpus.fetch import fetch_corpus, hub_answers
from data_pipeline.corpus.prose import (
    dictionary_documents,
    html_paragraphs,
    is_prose,
    page_paragraphs,
    wikitext_documents,
)
from data_pipeline.errors import UserError

PROSE = (
    "It was the habit of the old man to walk along the river in the evening, and to watch the boats that "
    "came down from the hills with stone for the bridge."
)


def test_the_filter_keeps_prose_and_drops_the_rest() -> None:
    assert is_prose(PROSE)
    assert not is_prose("Too short, this is.")
    assert not is_prose("int main(void) { return 0; } " * 10)
    assert not is_prose("Linux kernel scheduler driver interface memory buffer allocation failure handling " * 3)
    assert not is_prose(PROSE * 200)


def test_pages_become_paragraphs_without_furniture() -> None:
    page = f"""<html><head><title>T</title><style>x</style></head><body><nav>Menu of the page</nav>
    <main><h1>Head</h1><p>{PROSE} More <b>bold</b> <!-- no --> words.</p><p>Another. {PROSE}</p>
    <table><tr><td>cell</td></tr></table></main><footer>All rights reserved</footer></body></html>"""
    found = html_paragraphs(page.encode())
    assert [block for block in found if is_prose(block)] == [f"{PROSE} More bold words.", f"Another. {PROSE}"]
    assert not any(word in " ".join(found) for word in ("Menu", "cell", "rights"))
    assert html_paragraphs(b"") == []
    assert html_paragraphs(f"<html><body><p>grüße, {PROSE}</p></body></html>".encode()) == [f"grüße, {PROSE}"]


def test_dictionary_entries_become_readable_paragraphs(tmp_path: Path) -> None:
    entry = (
        'Alderney \\Al"der*ney\\, n. [Fr. [a]b,\n   from an island.]\n   1. One of a breed of cattle '
        "that was raised in {Alderney}, one of\n      the Channel Islands, and that is known for the milk.\n"
        "      [1913 Webster]\n\n"
    )
    path = tmp_path / "x.dict.dz"
    path.write_bytes(gzip.compress((entry + "Aldern \\Al\\, a.\n   Short.\n").encode()))
    assert list(dictionary_documents(path)) == [
        [
            "Alderney: One of a breed of cattle that was raised in Alderney, one of the Channel Islands, "
            "and that is known for the milk."
        ]
    ]


def test_wiki_articles_are_kept_apart() -> None:
    lines = ["", " = First = \n", f" {PROSE} \n", " = = Part = = \n", f" {PROSE} It was well @-@ known . \n"]
    lines += [" = Second = \n", "short\n", f" {PROSE} \n"]
    assert list(wikitext_documents(lines)) == [
        ("First", [PROSE, f"{PROSE} It was well-known ."]),
        ("Second", [PROSE]),
    ]


def test_package_names_follow_the_release() -> None:
    names = ["python3-doc", "python3.9-doc", "python3.11-doc", "linux-doc", "linux-doc-6.1", "anarchism"]
    assert resolve_names(PACKAGES, names) == ["anarchism", "python3.11-doc", "linux-doc-6.1"]
    assert resolve_names([Package("nothing", 1)], names) == []


def test_no_more_packages_are_fetched_than_needed() -> None:
    assert [package.pattern for package in choose_packages(8)] == ["anarchism"]
    assert len(choose_packages(1000)) == len(PACKAGES)


def test_a_system_without_apt_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="not a Debian-like system"):
        fetch_packages(PACKAGES, tmp_path)


def test_the_offline_switch_and_a_silent_hub_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(corpus_module, "_PROBE_S", 0.2)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
        assert not hub_answers()

    def forbidden(*_: object, **__: object) -> Any:
        raise AssertionError("the hub was asked although it is switched off")

    monkeypatch.setattr(corpus_module.threading, "Thread", forbidden)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_answers()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two unpacked packages of ten pages, and no hub."""

    def fetch(wanted: object, folder: Path) -> dict[str, Path]:
        found = {}
        for name in ("one", "two"):
            found[name] = folder / name
            found[name].mkdir(parents=True)
            for number in range(10):
                shared = f"<p>{PROSE}</p>"
                page = f"<html><body><p>{PROSE[:-1]}, on day {number} of the year {name}.</p>{shared}</body></html>"
                (found[name] / f"{number}.html").write_text(page)
        return found

    monkeypatch.setattr(corpus_module, "hub_answers", lambda: False)
    monkeypatch.setattr(corpus_module, "fetch_packages", fetch)
    monkeypatch.setattr(corpus_module.os, "sched_getaffinity", lambda _: set(range(1)))
    return tmp_path


def read(folder: Path) -> list[dict[str, str]]:
    parts = sorted(folder.glob("part-*.jsonl.gz"))
    return [json.loads(line) for part in parts for line in gzip.decompress(part.read_bytes()).splitlines()]


def test_a_corpus_has_every_paragraph_once_and_is_reused(packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = packages / "corpus"
    info = fetch_corpus(out, 1.0)
    documents = read(out)
    assert info["documents"] == len(documents) == 20
    assert info["origin"] == "packages one, two"
    assert info["bytes"] == sum(len(document["text"].encode()) for document in documents)
    paragraphs = [line for document in documents for line in document["text"].split("\n")]
    assert len(paragraphs) == len(set(paragraphs)) == 21
    assert {document["source"] for document in documents} == {"one", "two"}
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert main(["corpus", str(out), "--max-mb", "1"]) == 0
    assert "exists already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(UserError, match="made with --max-mb 1, not 2"):
        fetch_corpus(out, 2.0)
    assert [path.name for path in packages.iterdir()] == ["corpus"]


def test_a_corpus_is_bounded_and_always_the_same(packages: Path) -> None:
    fetch_corpus(packages / "a", 0.001)
    fetch_corpus(packages / "b", 0.001)
    assert read(packages / "a") == read(packages / "b")
    assert 300 < sum(len(document["text"]) for document in read(packages / "a")) <= 1000


def test_where_nothing_can_be_fetched_the_reasons_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(corpus_module, "hub_answers", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["corpus", str(tmp_path / "corpus")]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "the hub did not answer" in message
    assert "not a Debian-like system" in message
    assert "your own files" in message
    assert list(tmp_path.iterdir()) == []


def test_folders_with_other_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UserError, match="not empty and holds no corpus"):
        fetch_corpus(tmp_path, 1.0)
    with pytest.raises(UserError, match="is a file"):
        fetch_corpus(tmp_path / "x", 1.0)


def test_pages_too_large_for_prose_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.html"
    path.write_text(f"<html><body><p>{PROSE}</p></body></html>")
    assert page_paragraphs(path) == [PROSE]
    monkeypatch.setattr("data_pipeline.corpus.prose.MAX_PAGE_BYTES", 10)
    assert page_paragraphs(path) == []


@pytest.mark.parametrize("size", [0.0, -1.0, math.inf, math.nan])
def test_a_size_that_is_none_is_refused(size: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--max-mb is .*: it must be above 0 and finite"):
        fetch_corpus(tmp_path / "corpus", size)
    assert not list(tmp_path.iterdir())
