"""The text that all contestants of the build are given: the same files, of about the same size."""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILES = 8
"""Files that the text is dealt out to, so that every contestant's two processes share it evenly."""


@dataclass
class Text:
    """``files`` of JSON Lines with a ``text`` field: ``bytes`` of UTF-8 text in ``documents`` documents."""

    files: list[Path]
    bytes: int
    documents: int


def documents(source: Path) -> Iterator[str]:
    """Texts of a JSON Lines file, or of all below a folder, by name; .gz is unpacked."""
    found = sorted(p for p in source.rglob("*.jsonl*") if p.is_file()) if source.is_dir() else [source]
    if not found or not found[0].is_file():
        sys.exit(f"--text {source}: no JSON Lines files there")
    for path in found:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)["text"]


def write_text(source: Path, most_bytes: int, folder: Path) -> Text:
    """Write the first documents of the source, up to ``most_bytes`` of text, into :data:`FILES` files."""
    folder.mkdir(parents=True)
    files = [folder / f"text-{index}.jsonl" for index in range(FILES)]
    sizes = [0] * FILES
    count = 0
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(open(path, "w", encoding="utf-8")) for path in files]
        for text in documents(source):
            size = len(text.encode())
            if sum(sizes) + size > most_bytes:
                break
            smallest = sizes.index(min(sizes))
            handles[smallest].write(json.dumps({"id": str(count), "text": text}, ensure_ascii=False) + "\n")
            sizes[smallest] += size
            count += 1
    if not all(sizes):
        sys.exit(f"--text {source}, --megabytes {most_bytes / 1e6}: too little text for {FILES} files")
    return Text(files, sum(sizes), count)


def build_command(config: dict[str, object], folder: Path) -> list[str]:
    """``electra-data build`` with these settings, which are written into ``folder`` (JSON is YAML)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "build.yaml"
    path.write_text(json.dumps(config))
    return [sys.executable, "-m", "data_pipeline", "build", "--config", str(path)]


def train_tokenizer(text: Text, vocabulary: int, workers: int, folder: Path) -> Path:
    """Train a vocabulary on one of the files; returns its tokenizer.json."""
    store = folder / "store"
    config = {
        "out": str(store),
        "sources": [{"kind": "jsonl", "paths": [str(text.files[0])]}],
        "tokenizer": {"vocab_size": vocabulary},
        "workers": workers,
    }
    subprocess.run(build_command(config, folder), check=True)
    return store / "tokenizer" / "tokenizer.json"
