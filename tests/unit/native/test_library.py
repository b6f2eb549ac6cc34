"""Native code: where it is kept, who may share it, and what is said where it cannot be made."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from electra_scale.native import library as module
from electra_scale.native.library import Unavailable, library


@pytest.fixture
def source(tmp_path: Path) -> Path:
    found = tmp_path / "twice.c"
    found.write_text("int twice(int x) { return 2 * x; }\n")
    return found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, c_compiler: None) -> Path:
    """Where the code is kept, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "electra-scale"


def test_code_is_compiled_once_and_kept_for_the_next_process(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert library(source).twice(21) == 42
    (made,) = folder.iterdir()
    assert made.name.startswith("twice-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    monkeypatch.setattr(module, "_compile", lambda *_: pytest.fail("compiled again"))
    assert library(source).twice(4) == 8


def test_another_source_processor_or_compiler_has_code_of_its_own(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(source)
    source.write_text("int twice(int x) { return x + x + 1; }\n")
    assert library(source).twice(4) == 9
    monkeypatch.setattr(module, "_processor", lambda: b"another")
    library(source)
    monkeypatch.setenv("CC", "cc -g0")
    library(source)
    assert len(list(folder.iterdir())) == 4


def test_a_folder_that_cannot_be_written_is_done_without(source: Path, folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("a file is in the way")
    assert library(source).twice(4) == 8
    assert folder.is_file()


def test_a_damaged_file_is_done_without(source: Path, folder: Path) -> None:
    library(source)
    (made,) = folder.iterdir()
    # A file of its own: the one that is loaded stays whole.
    made.unlink()
    made.write_bytes(b"no code")
    assert library(source).twice(4) == 8


def test_no_home_is_needed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert library(source).twice(4) == 8


def test_a_compiler_that_fails_is_named_with_the_first_line_that_it_says(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "broken-cc"
    compiler.write_text("#!/bin/sh\necho this machine is not supported >&2\necho more >&2\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(Unavailable, match=r"broken-cc: this machine is not supported$"):
        library(source)


def test_a_compiler_that_is_not_there_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(Unavailable, match="no-such-compiler"):
        library(source)
