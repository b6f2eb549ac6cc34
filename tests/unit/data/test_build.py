"""A build gives the same store every time, refuses what can't be right, and loses nothing it finished."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline import build as build_module
from data_pipeline.build import build_store
from data_pipeline.clean import content_hash
from data_pipeline.config import BuildConfig, CleanConfig, SourceConfig, TokenizerConfig
from data_pipeline.errors import UserError
from data_pipeline.manifest import load_manifest
from data_pipeline.merge import first_occurrences, judge
from data_pipeline.shard import open_shard
from data_pipeline.tokenizer import load_tokenizer
from data_pipeline.verify import verify_store

from .conftest import make_config, store_bytes

MakeConfig = Callable[..., BuildConfig]


def documents(store: Path) -> dict[int, list[int]]:
    found = {}
    for entry in load_manifest(store).shards:
        shard = open_shard(store / entry.name)
        for row, doc in enumerate(shard.doc.tolist()):
            found[doc] = shard.ids[shard.offsets[row] : shard.offsets[row + 1]].tolist()
    return found


def doc_id(text: str) -> int:
    return int.from_bytes(content_hash(text)[:8], "little")


def test_every_document_arrives_under_its_id_with_the_tokenizers_ids(store: Path, texts: list[str]) -> None:
    tokenizer = load_tokenizer(store)
    expected = {doc_id(text): tokenizer.encode(text, add_special_tokens=False).ids for text in texts}
    assert documents(store) == expected
    counts = load_manifest(store).counts
    assert counts["documents"] + counts["documents_heldout"] == counts["documents_read"] == len(texts)
    assert counts["tokens"] + counts["tokens_heldout"] == sum(map(len, expected.values()))
    assert 5 <= counts["documents_heldout"] <= 40
    assert counts["duplicates"] == counts["bad_lines"] == counts["too_short"] == counts["too_long"] == 0


def test_token_counts_are_those_of_the_train_split(store: Path) -> None:
    manifest = load_manifest(store)
    counts = np.load(store / "token_counts.npy")
    assert counts.dtype == np.int64
    assert counts.shape == (manifest.tokenizer.vocab_size,)
    expected = np.zeros_like(counts)
    for entry in manifest.split("train"):
        expected += np.bincount(open_shard(store / entry.name).ids, minlength=len(counts))
    assert np.array_equal(counts, expected)
    assert counts.sum() == manifest.counts["tokens"]


def test_the_order_in_which_tasks_finish_changes_nothing(
    config: MakeConfig, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Backwards:
        def run(self, function: Callable[[Any], None], jobs: Sequence[Any]) -> Iterator[None]:
            for job in reversed(jobs):
                function(job)
                yield

    def start(*_: object) -> Any:
        import contextlib

        return contextlib.nullcontext(Backwards())

    monkeypatch.setattr(build_module, "start_workers", start)
    build_store(config("backwards"))
    assert store_bytes(tmp_path / "backwards") == store_bytes(store)


def test_a_second_run_does_nothing_and_says_so(
    config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    build_store(config())
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    capsys.readouterr()
    build_store(config())
    assert "already built" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_other_settings_are_refused_and_nothing_is_touched(config: MakeConfig, store: Path) -> None:
    before = store_bytes(store)
    with pytest.raises(UserError, match=r"other settings \(held_out was 0\.1, now 0\.2\)"):
        build_store(config(held_out=0.2))
    with pytest.raises(UserError, match=r"clean\.min_chars was 1, now 9"):
        build_store(config(clean=CleanConfig(min_chars=9)))
    assert store_bytes(store) == before


def test_changed_inputs_are_refused(config: MakeConfig, jsonl: Path) -> None:
    build_store(config())
    os.utime(jsonl, ns=(1, 1))
    with pytest.raises(UserError, match=r"before .*docs\.jsonl changed"):
        build_store(config())
    jsonl.write_text(jsonl.read_text() + '{"text": "one more"}\n')
    with pytest.raises(UserError, match=r"other settings \(sources\[0\]\.inputs\[0\]\.size"):
        build_store(config())


def test_workers_and_place_are_not_settings(config: MakeConfig, store: Path) -> None:
    settings = load_manifest(store).settings
    assert not {"workers", "out", "engine"} & settings.keys()
    assert str(store.parent) not in json.dumps(settings)


def test_a_folder_with_other_things_is_not_written_to(config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not empty and not a store"):
        build_store(config())
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["thesis.tex"]


def test_two_builds_of_one_store_exclude_each_other(config: MakeConfig, tmp_path: Path) -> None:
    from data_pipeline.records import store_lock

    with store_lock(tmp_path / "store"), pytest.raises(UserError, match="another build is writing"):
        build_store(config())


def test_duplicates_keep_the_first_in_canonical_order(tmp_path: Path) -> None:
    for name, lines in (("a", ["one  text", "two"]), ("b", ["two", "three", "one text", "three"])):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    source = SourceConfig(kind="text", paths=[str(tmp_path / "*.txt")], documents="line")
    tokenizer = TokenizerConfig(vocab_size=64, min_frequency=1)
    for name, deduplicate, expected in (("s", True, [2, 1]), ("t", False, [2, 4])):
        out = tmp_path / name
        config = make_config(
            out, source, held_out=0.0, task_bytes=1024, clean=CleanConfig(deduplicate=deduplicate), tokenizer=tokenizer
        )
        # One task per file.
        source_tasks = [SourceConfig(kind="text", paths=[str(tmp_path / f"{n}.txt")], documents="line") for n in "ab"]
        config.sources = source_tasks
        manifest = build_store(config)
        assert [shard.rows for shard in manifest.shards] == expected
        assert manifest.counts["duplicates"] == (3 if deduplicate else 0)


def test_first_occurrences_agree_with_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    ids, keys = (generator.integers(0, 6, 500).astype(np.uint64) for _ in range(2))
    seen: set[tuple[int, int]] = set()
    expected = []
    for pair in zip(ids.tolist(), keys.tolist(), strict=True):
        expected.append(pair not in seen)
        seen.add(pair)
    assert first_occurrences(ids, keys).tolist() == expected


def test_the_training_sample_is_bounded_and_seeded() -> None:
    hashes = [np.random.default_rng(n).integers(0, 256, (100, 16)).astype(np.uint8) for n in range(3)]
    sizes = [np.full(100, 10, np.int64)] * 3

    def sample(seed: int) -> list[int]:
        verdicts = judge(hashes, sizes, deduplicate=True, held_out=0.5, sample_bytes=200, seed=seed)
        assert not ((verdicts & 4 != 0) & (verdicts & 2 != 0)).any()
        return np.flatnonzero(verdicts & 4).tolist()

    assert len(sample(0)) == 20
    assert sample(0) == sample(0) != sample(1)


def test_an_empty_corpus_is_refused_with_the_counts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": ""}\n{"no": 1}\n{"text": "long enough"}\n')
    source = SourceConfig(kind="jsonl", paths=[str(tmp_path / "a.jsonl")])
    with pytest.raises(UserError, match=r"no document is left .*bad_lines 1, too_short 2"):
        build_store(make_config(tmp_path / "s", source, clean=CleanConfig(min_chars=50)))
    (tmp_path / "a.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match="every matched file is empty"):
        build_store(make_config(tmp_path / "t", source))


def test_a_vocabulary_beyond_uint16_is_refused_before_anything_is_written(config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="uint16 holds at most"):
        build_store(config(ids_type="uint16", tokenizer=TokenizerConfig(vocab_size=70_000)))
    assert not (tmp_path / "store").exists()


def test_ids_type_decides_the_width(config: MakeConfig, tmp_path: Path) -> None:
    build_store(config("wide", ids_type="uint32"))
    name = load_manifest(tmp_path / "wide").shards[0].name
    assert open_shard(tmp_path / "wide" / name).ids.dtype == np.uint32


def test_a_large_task_is_spread_over_shards(
    config: MakeConfig, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.steps.MAX_SHARD_TOKENS", 500)
    build_store(config("spread"))
    shards = load_manifest(tmp_path / "spread").shards
    assert any(shard.name.endswith("-01.arrow") for shard in shards)
    assert documents(tmp_path / "spread") == documents(store)
    assert verify_store(tmp_path / "spread") == []


def test_literal_special_tokens_in_a_text_stay_plain_text(tmp_path: Path) -> None:
    text = "The token [MASK] hides and [SEP] separates, said the manual."
    (tmp_path / "a.txt").write_text(text)
    source = SourceConfig(kind="text", paths=[str(tmp_path / "a.txt")])
    tokenizer = TokenizerConfig(vocab_size=64, min_frequency=1)
    build_store(make_config(tmp_path / "s", source, held_out=0.0, tokenizer=tokenizer))
    [ids] = documents(tmp_path / "s").values()
    assert min(ids) > 4


def test_an_input_that_changes_between_the_steps_is_refused(
    config: MakeConfig, jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = build_module._merge

    def change_then_merge(*arguments: Any) -> Any:
        jsonl.write_bytes(jsonl.read_bytes().replace(b"number", b"NUMBER"))
        return merge(*arguments)

    monkeypatch.setattr(build_module, "_merge", change_then_merge)
    with pytest.raises(UserError, match="an input changed while it was being read"):
        build_store(config())
