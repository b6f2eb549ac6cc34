"""Folders and globs give the same files: through links, past nothing that can't be read, and never our own stores."""

from __future__ import annotations

import glob
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.cli import main
from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.read.inputs import find_inputs


def names(*paths: Path | str, out: Path | str = "", lines: list[str] | None = None) -> list[str]:
    source = SourceConfig(paths=[str(path) for path in paths])
    return [entry.location for entry in find_inputs([source], str(out), (lines if lines is not None else []).append)]


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.name}\n")


def below(folder: Path, found: list[str]) -> list[str]:
    return [os.path.relpath(path, folder) for path in found]


def test_links_to_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    texts, elsewhere = tmp_path / "texts", tmp_path / "elsewhere"
    write(texts / "a.txt", texts / "sub" / "b.txt", elsewhere / "c.txt", elsewhere / "deep" / "d.txt")
    (texts / "link").symlink_to(elsewhere)
    (texts / "sub" / "file.txt").symlink_to(elsewhere / "c.txt")
    (texts / "sub" / "back").symlink_to(texts)
    (elsewhere / "round").symlink_to(elsewhere)
    (elsewhere / "round too").symlink_to(texts)
    expected = ["a.txt", "link/c.txt", "link/deep/d.txt", "sub/b.txt", "sub/file.txt"]
    assert below(texts, names(texts)) == expected
    for pattern in ("**", "**/*", "**/*.txt"):
        assert sorted(below(texts, names(texts / pattern))) == expected
    (tmp_path / "to texts").symlink_to(texts)
    assert below(tmp_path / "to texts", names(tmp_path / "to texts")) == expected


def as_before(pattern: str) -> list[str]:
    """The files of a pattern, in the order on which the bytes of every store so far depend."""
    files: dict[str, None] = {}
    for match in [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True)):
        if not os.path.isdir(match):
            files[match] = None
            continue
        below = []
        for parent, folders, found in os.walk(match):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below += [os.path.join(parent, name) for name in found if not name.startswith(".")]
        files.update(dict.fromkeys(sorted(below)))
    return list(files)


PATTERNS = [
    "*",
    "**",
    "*/",
    "**/",
    "**/*",
    "*/*",
    "*/**",
    "*/**/",
    "*/*/",
    "b/**",
    "b/*",
    "b*",
    "b*/",
    "b*/**",
    "b*/*.txt",
]
PATTERNS += [
    "*.txt",
    "*/*.txt",
    "**/*.txt",
    "b/**/*.txt",
    "./**/*.txt",
    "./*",
    "b/*/e.txt",
    ".h/*",
    "?.txt",
    "**/d/*",
    "[z]",
]
PATTERNS += ["b", "b/", "./b", "b//d", "b/../b-x/*", "**/d", "**/d/**", "*/d/e.txt", "b/.h/*", "[[]z]/*", "b*/../a.txt"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_files_come_in_the_order_of_before(tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [
        "a.txt",
        "b/c.txt",
        "b/d/e.txt",
        "b/d.txt",
        "b/d-x/f.txt",
        "b/.h/x.txt",
        ".h/y.txt",
        "b.txt",
        "b-x/d/g.txt",
    ]
    write(*(tmp_path / name for name in [*files, "b-x/d.txt", "b0/d/h.txt", "[z]/1.txt", "z/2.txt", "b/d/d/e.txt"]))
    monkeypatch.chdir(tmp_path)
    for given in (pattern, str(tmp_path / pattern)):
        assert as_before(given)
        assert names(given) == as_before(given)


def test_a_folder_that_exists_as_it_is_spelled_is_no_pattern(tmp_path: Path) -> None:
    write(tmp_path / "data[1]" / "a.txt", tmp_path / "data[1]" / "s*" / "b.txt", tmp_path / "data1" / "c.txt")
    assert below(tmp_path, names(tmp_path / "data[1]" / "*.txt")) == ["data[1]/a.txt"]
    assert below(tmp_path, names(tmp_path / "data[1]" / "s*" / "**" / "*.txt")) == ["data[1]/s*/b.txt"]
    assert below(tmp_path, names(tmp_path / "data[12]" / "*.txt")) == ["data1/c.txt"]


def test_what_is_hidden_is_left_out_and_reported(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", tmp_path / ".git" / "x", tmp_path / "b" / ".DS_Store")
    lines: list[str] = []
    assert below(tmp_path, names(tmp_path, lines=lines)) == ["a.txt"]
    assert len(lines) == 1
    assert lines[0].startswith("sources[0]: 2 hidden names left out (it starts with a dot): such as ")


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "dangling link", "link to itself", "link to a pipe"])
@pytest.mark.parametrize("form", ["folder", "glob", "path"])
def test_what_is_no_file_is_refused_by_name_and_never_opened(
    tmp_path: Path, kind: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t" / "a.txt")
    path = tmp_path / "t" / "odd.txt"
    expected = {"pipe": "a named pipe", "socket": "a socket", "device": "a device"}.get(kind, "odd.txt")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("t/odd.txt")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "gone")
        expected = f"is a symbolic link to {tmp_path}/gone, which is not there"
    elif kind == "link to itself":
        path.symlink_to("odd.txt")
        expected = "Too many levels of symbolic links"
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("../pipe")
        expected = "a named pipe"
    where = {"folder": tmp_path / "t", "glob": tmp_path / "t" / "*.txt", "path": path}[form]
    with pytest.raises(UserError, match=expected) as raised:
        names(where)
    assert str(path) in str(raised.value)


@pytest.mark.slow
def test_what_may_not_be_read_ends_the_build_in_one_line(tmp_path: Path) -> None:
    # Root may read everything, so another user has to build.
    program = (
        "import os, sys\n"
        "from data_pipeline.cli import main\n"
        # Imports what a build needs, which the other user may not read.
        "sys.stderr = open(os.devnull, 'w')\n"
        "main(['build', '--out', 'nowhere', '--sources', '[{\"paths\": [\"nowhere\"]}]'])\n"
        "sys.stderr = sys.__stderr__\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for paths in sys.argv[1:]:\n"
        "    code = main(['build', '--out', '/nonexistent/s', '--sources', paths])\n"
        "    print('code', code, file=sys.stderr)\n"
    )
    home = tmp_path / "x"
    write(home / "closed" / "a.txt", home / "open" / "a.txt", home / "file" / "a.txt", home / "entered" / "a.txt")
    for parent in (tmp_path, *tmp_path.parents[:3]):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/tmp"):
            parent.chmod(0o755)
    (home / "closed").chmod(0)
    (home / "file" / "a.txt").chmod(0)
    # May be listed, but nothing in it may be looked at.
    (home / "entered").chmod(0o744)
    (home / "link").symlink_to(home / "closed")
    forms = [
        "",
        "/",
        "/*/*.txt",
        "/**/*.txt",
        "/closed/a.txt",
        "/closed",
        "/closed/*",
        "/link",
        "/file",
        "/file/*",
        "/entered",
    ]
    arguments = [f'[{{"kind": "text", "paths": ["{home}{form}"]}}]' for form in forms]
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    lines = result.stderr.splitlines()
    (home / "closed").chmod(0o755)
    assert len(lines) == 2 * len(forms), result.stderr
    for form, line, code in zip(forms, lines[::2], lines[1::2], strict=True):
        assert code == "code 2"
        assert "ermission denied" in line, (form, line)
        assert str(home) in line


def test_filesthat_are_not_utf8_are_found(tmp_path: Path) -> None:
    strange = os.path.join(os.fsencode(tmp_path), b"caf\xe9 \n.txt")
    with open(strange, "wb") as file:
        file.write(b"text\n")
    assert names(tmp_path) == [os.fsdecode(strange)]
    os.mkfifo(strange + b"2")
    with pytest.raises(UserError, match="a named pipe") as raised:
        names(tmp_path)
    assert str(raised.value).isprintable()


def test_a_tree_deeper_than_any_recursion_is_found(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    folder = os.open(top, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(os.open("end.txt", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    try:
        for path in (top, top / "**" / "*.txt"):
            assert names(path) == [f"{top}/{'d/' * 1200}end.txt"]
    finally:
        # Python's own way to remove it is a recursion.
        subprocess.run(["rm", "-rf", str(top)], check=True)


def test_a_path_that_can_be_no_name_matches_nothing() -> None:
    for path in ("a\0b", "x" * 5000 + "*", "/dev/null/x"):
        with pytest.raises(UserError, match="matches no file"):
            names(path)
    with pytest.raises(UserError, match="File name too long"):
        names("x" * 5000)


def test_a_name_that_another_process_reads_otherwise_is_refused() -> None:
    for path in ("/dev/stdin", "/dev/fd/0", "/proc/self/status"):
        with pytest.raises(UserError, match="for this process alone"):
            names(path)


def store(folder: Path, *options: str) -> int:
    arguments = ["--tokenizer.vocab_size", "60", "--tokenizer.min_frequency", "1", "--held_out", "0", "--workers", "1"]
    return main(["build", "--out", str(folder), *arguments, *options])


def test_a_store_below_a_source_is_never_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts"
    write(*(texts / f"{letter}.txt" for letter in "abcdef"))
    out = texts / "deep" / "er" / "store"
    (tmp_path / "link").symlink_to(out)
    capsys.readouterr()
    for folder, pattern in ((out, texts), (tmp_path / "link", texts), (out, f"{texts}/**/*"), (out, f"{texts}/**")):
        assert store(folder, "--sources", f'[{{"paths": ["{pattern}"]}}]') == 0
    assert "already built" in capsys.readouterr().err
    assert store(tmp_path / "second", "--sources", f'[{{"paths": ["{texts}"]}}]') == 0
    shown = capsys.readouterr().err
    assert f"sources[0]: 1 folder left out (it is a store of electra-data): {out}" in shown
    assert "6 documents" in shown.replace("6 documents with", "6 documents")


def test_run_folders_caches_and_models_below_a_source_are_never_read(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", tmp_path / "run" / "recipe.yaml", tmp_path / "run" / "metrics.jsonl")
    write(tmp_path / "cache" / ".lock", tmp_path / "cache" / f"{'0a' * 32}.arrow")
    write(
        tmp_path / "model" / "config.json", tmp_path / "model" / "model.safetensors", tmp_path / "model" / "vocab.txt"
    )
    write(tmp_path / "unfinished" / ".build" / "lock", tmp_path / "unfinished" / "tokenizer" / "vocab.txt")
    # Somebody else's names.
    write(
        tmp_path / "hashes" / f"{'0b' * 32}.arrow", tmp_path / "other" / "manifest.json", tmp_path / "c" / "config.json"
    )
    lines: list[str] = []
    found = below(tmp_path, names(tmp_path, lines=lines))
    assert found == ["a.txt", "c/config.json", f"hashes/{'0b' * 32}.arrow", "other/manifest.json"]
    assert sorted(line.rpartition("/")[2] for line in lines) == ["cache", "model", "run", "unfinished"]
    with pytest.raises(UserError, match=r"matches no file.*it is a run folder of electra-scale"):
        names(tmp_path / "run")


def test_a_source_in_out_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "store" / "texts" / "a.txt", tmp_path / "store-texts" / "a.txt")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    for path in ("store", "store/texts", "store/texts/*.txt", "store/*/a.txt", "link/texts", "store-texts/../store"):
        with pytest.raises(UserError, match="lies in out"):
            names(tmp_path / path, out=tmp_path / "store")
    for path in ("store-texts", "store-*/*", "store*/a.txt"):
        assert below(tmp_path, names(tmp_path / path, out=tmp_path / "store")) == ["store-texts/a.txt"]
