"""What a build must find out about its tokenizer is found out once, whatever the number of tasks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import tokenizers

from data_pipeline.build import build
from data_pipeline.build.build import build_store
from data_pipeline.config import SourceConfig, TokenizerConfig
from data_pipeline.tokenize import description, tokenizer
from data_pipeline.tokenize.roles import SPECIAL_TOKENS
from data_pipeline.tokenize.tokenizer import tokenizer_fingerprint, wordpiece_tokenizer
from tests.unit.data_pipeline.conftest import make_config


def test_a_build_loads_and_parses_a_given_tokenizer_a_few_times_for_any_number_of_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "tokenizer.json"
    words = [*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    wordpiece_tokenizer({word: index for index, word in enumerate(words)}, True).save(str(given))
    counts: Counter[str] = Counter()

    class Counted:
        @staticmethod
        def from_str(content: str) -> tokenizers.Tokenizer:
            counts["loaded"] += 1
            return tokenizers.Tokenizer.from_str(content)

    def read(*arguments: Any) -> Any:
        counts["read"] += 1
        return original(*arguments)

    original = build.read_tokenizer
    monkeypatch.setattr(build, "read_tokenizer", read)
    for module in (build, description, tokenizer):
        monkeypatch.setattr(module, "Tokenizer", Counted)

    def counted(parse: Callable[..., Any]) -> Callable[..., Any]:
        def counting(data: Any, **options: Any) -> Any:
            counts["parsed"] += b'"added_tokens"' in (data.encode() if isinstance(data, str) else bytes(data))
            return parse(data, **options)

        return counting

    monkeypatch.setattr(json, "loads", counted(json.loads))
    monkeypatch.setattr(orjson, "loads", counted(orjson.loads))
    (tmp_path / "text").mkdir()
    for number in range(6):
        lines = (json.dumps({"text": f"a text of some words é number {number} {line}"}) for line in range(40))
        (tmp_path / "text" / f"{number}.jsonl").write_text("\n".join(lines))
    found = []
    for name, task_bytes in (("one", 1 << 20), ("many", 1024)):
        counts.clear()
        description.described.cache_clear()
        config = make_config(
            tmp_path / name,
            SourceConfig(kind="jsonl", paths=[str(tmp_path / "text")]),
            tokenizer=TokenizerConfig(path=str(given)),
            task_bytes=task_bytes,
        )
        manifest = build_store(config)
        found.append(dict(counts))
        assert manifest.tokenizer.fingerprint == tokenizer_fingerprint(tokenizers.Tokenizer.from_file(str(given)))
    # Loaded: the given file, what is saved of it, for text, and its rules over single characters. Parsed: all but the
    # first, and what is saved once more where it differs from the given file.
    assert found[0] == found[1] == {"read": 1, "loaded": 4, "parsed": 2}
