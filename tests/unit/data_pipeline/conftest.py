"""Small corpora and stores that the data tests share."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.build.build import build_store
from data_pipeline.config import BuildConfig, CleanConfig, SourceConfig, TokenizerConfig

_TEXT = """
river stone light garden winter letter morning window bridge harbour market silver captain story mountain
evening paper village music forest answer question teacher summer island railway
"""
_WORDS = _TEXT.split()


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Different short documents of a few made-up sentences."""
    generator = random.Random(seed)
    texts = []
    for number in range(count):
        words = generator.choices(_WORDS, k=generator.randint(5, 60))
        texts.append(f"Story {number}: The {' '.join(words)}. It was number {number}.")
    return texts


def _write_jsonl(path: Path, texts: list[str]) -> Path:
    lines = (json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(texts))
    path.write_text("".join(lines), "utf-8")
    return path


@pytest.fixture
def texts() -> list[str]:
    return make_texts(200)


@pytest.fixture
def jsonl(tmp_path: Path, texts: list[str]) -> Path:
    (tmp_path / "input").mkdir()
    return _write_jsonl(tmp_path / "input" / "docs.jsonl", texts)


def make_config(out: Path, *sources: SourceConfig, **changes: Any) -> BuildConfig:
    """A quick build: a small vocabulary, small tasks, in this process."""
    settings: dict[str, Any] = {
        "tokenizer": TokenizerConfig(vocab_size=200, sample_bytes=1 << 20),
        "clean": CleanConfig(),
        "held_out": 0.1,
        "task_bytes": 4096,
        "workers": 1,
    }
    return BuildConfig(out=str(out), sources=list(sources), **{**settings, **changes})


@pytest.fixture
def config(tmp_path: Path, jsonl: Path) -> Callable[..., BuildConfig]:
    """Make a configuration over the shared JSON Lines corpus; keyword arguments replace its parts."""

    def make(out: str = "store", **changes: Any) -> BuildConfig:
        return make_config(tmp_path / out, SourceConfig(kind="jsonl", paths=[str(jsonl)]), **changes)

    return make


@pytest.fixture(scope="session")
def session_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("session")
    source = SourceConfig(kind="jsonl", paths=[str(_write_jsonl(folder / "docs.jsonl", make_texts(200)))])
    build_store(make_config(folder / "store", source))
    return folder / "store"


@pytest.fixture
def store(session_store: Path, tmp_path: Path) -> Path:
    """A finished small store of the shared corpus, to be spoiled at will; without its work folder."""
    shutil.copytree(session_store, tmp_path / "store", ignore=shutil.ignore_patterns(".build"))
    return tmp_path / "store"
