"""The end of a build reports how much of the text the tokenizer does not know, by source."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from data_pipeline.build import steps
from data_pipeline.build.build import build_store
from data_pipeline.build.records import Record
from data_pipeline.build.unknown import UnknownTokens
from data_pipeline.config import SourceConfig, TokenizerConfig
from tests.unit.data_pipeline.conftest import make_config, make_texts


@pytest.fixture
def sources(tmp_path: Path) -> list[SourceConfig]:
    (tmp_path / "news.txt").write_text("\n\n".join(make_texts(100)))
    (tmp_path / "zh.txt").write_text("\n\n".join(f"东京 has {number} 塔" for number in range(20)), "utf-8")
    (tmp_path / "long.txt").write_text("\n\n".join(f"{'x' * 150} {number}" for number in range(20)))
    return [SourceConfig(kind="text", paths=[str(tmp_path / f"{n}.txt")], label=n) for n in ("news", "zh", "long")]


def test_an_existing_tokenizer_that_lacks_characters_gets_a_warning(
    sources: list[SourceConfig], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = build_store(
        make_config(tmp_path / "out", *sources[:2], tokenizer=TokenizerConfig(path=str(store / "tokenizer")))
    )
    lines = capsys.readouterr().err.splitlines()
    (report,) = [line for line in lines if line.startswith("[UNK]: ")]
    share = 100 * manifest.counts["unknown_tokens"] / (manifest.counts["tokens"] + manifest.counts["tokens_heldout"])
    assert report.startswith(f"[UNK]: {share:.2f} % of the tokens (news 0.00 %, zh ")
    (warning,) = [line for line in lines if line.startswith("WARNING: ")]
    assert "of the tokens of zh are [UNK], such as '东': give a tokenizer.path made for this text" in warning


def test_a_few_unknown_words_cost_no_search_for_an_example(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = []

    def search(_: bytes, text: str) -> str:
        searched.append(text)
        return "東"

    monkeypatch.setattr(steps, "unknown_word", search)
    for name, texts in (("few", [*make_texts(200), "東"]), ("many", ["the 東 and 東 again", *make_texts(1)])):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(texts), "utf-8")
        source = SourceConfig(kind="text", paths=[str(tmp_path / f"{name}.txt")])
        given = TokenizerConfig(path=str(store / "tokenizer"))
        manifest = build_store(make_config(tmp_path / name, source, tokenizer=given, task_bytes=1 << 20))
        assert manifest.counts["unknown_tokens"] > 0
        assert ("such as '東'" in capsys.readouterr().err) == bool(searched) == (name == "many")
    assert searched == ["the 東 and 東 again"]


def test_a_trained_vocabulary_names_its_settings(
    sources: list[SourceConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources[2].label = sources[1].label = "rest"
    build_store(make_config(tmp_path / "out", *sources, tokenizer=TokenizerConfig(vocab_size=100, alphabet=34)))
    lines = capsys.readouterr().err.splitlines()
    warnings = [line for line in lines if line.startswith("WARNING: ")]
    assert "of sources[1] (rest) are [UNK], such as '" in warnings[0]
    assert (
        ": raise tokenizer.alphabet (34 characters) or raise tokenizer.vocab_size (100), or give a tokenizer.path"
        in warnings[0]
    )
    assert "of sources[2] (rest) are [UNK], such as 'xxx" in warnings[1]
    assert "(150 characters): WordPiece knows no word of more than 100" in warnings[1]
    assert any(
        line.startswith("vocabulary: ") and "of more than 100 characters not trained on" in line for line in lines
    )


@pytest.mark.parametrize(
    ("settings", "entries", "advice"),
    [
        ({}, 700, ": lower tokenizer.min_frequency (2) or raise tokenizer.sample_bytes (100,000,000), or give"),
        ({}, 900, ": raise tokenizer.vocab_size (900), or give"),
        ({"alphabet": 50}, 700, ": raise tokenizer.alphabet (50 characters), or give"),
    ],
)
def test_the_setting_that_keeps_characters_out_is_named(settings: dict[str, int], entries: int, advice: str) -> None:
    tokenizer = dataclasses.asdict(TokenizerConfig(vocab_size=900, **settings))
    unknown = UnknownTokens({"tokenizer": tokenizer, "sources": [{"label": "main"}]}, entries)
    info = {"unknown_tokens": 3, "unknown_example": "姆", "shards": [{"tokens": 100}]}
    unknown.add(0, info, lambda: Record({}, info))
    share, warning = unknown.lines()
    assert share == "[UNK]: 3.00 % of the tokens"
    assert warning.startswith(f"WARNING: 3.00 % of the tokens of main are [UNK], such as '姆'{advice}")
