"""The reader that docs/format.md shows reads a real store, and sees that it was altered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.places.open import open_place
from data_pipeline.store.manifest import load_manifest
from data_pipeline.store.shard import open_shard

PAGE = Path(__file__).parents[4] / "docs" / "format.md"

Reader = Callable[[Path, str], Iterator[tuple[str, int, np.ndarray]]]


@pytest.fixture
def read_store() -> Reader:
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S) if "def " in text)
    assert "data_pipeline" not in block
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    reader: Reader = names["read_store"]
    return reader


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_pages_reader_gives_every_document(read_store: Reader, store: Path, split: str) -> None:
    found = list(read_store(store, split))
    wanted = []
    for entry in load_manifest(open_place(store)).split(split):
        shard = open_shard(store / entry.name)
        rows = zip(shard.doc, shard.offsets[:-1], shard.offsets[1:], strict=True)
        wanted += [(entry.source, int(doc), shard.ids[begin:end].tolist()) for doc, begin, end in rows]
    assert [(source, doc, ids.tolist()) for source, doc, ids in found] == wanted
    assert wanted


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _other_setting(path: Path) -> None:
    raw = json.loads(path.read_bytes())
    raw["settings"]["held_out"] = 0.25
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [("train-000000-00.arrow", _flip), ("tokenizer/tokenizer.json", _flip), ("manifest.json", _other_setting)],
)
def test_the_pages_reader_notices_a_change(
    read_store: Reader, store: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    spoil(store / name)
    with pytest.raises(AssertionError):
        list(read_store(store, "train"))


def test_the_page_names_every_count_and_every_entry_of_a_manifest(store: Path) -> None:
    page = PAGE.read_text("utf-8")
    raw = json.loads((store / "manifest.json").read_bytes())
    for name in (*raw, *raw["counts"], *raw["shards"][0], *raw["tokenizer"], *raw["token_counts"]):
        assert f"`{name}`" in page, name
