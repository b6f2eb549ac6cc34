"""A build gives the same store every time, refuses what can't be right, and loses nothing it finished."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.build import build as build_module
from data_pipeline.build.build import build_store
from data_pipeline.clean.cleaner import Cleaner
from data_pipeline.clean.identity import content_hash
from data_pipeline.config import BuildConfig, CleanConfig, SourceConfig, TokenizerConfig
from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.report.verify import verify_store
from data_pipeline.store.manifest import load_manifest
from data_pipeline.store.shard import open_shard
from data_pipeline.tokenize.tokenizer import load_tokenizer
from tests.support.fixtures.builds import store_bytes
from tests.unit.data_pipeline.conftest import make_config

MakeConfig = Callable[..., BuildConfig]


def documents(store: Path) -> dict[int, list[int]]:
    found = {}
    for entry in load_manifest(open_place(store)).shards:
        shard = open_shard(store / entry.name)
        for row, doc in enumerate(shard.doc.tolist()):
            found[doc] = shard.ids[shard.offsets[row] : shard.offsets[row + 1]].tolist()
    return found


def doc_id(text: str) -> int:
    return int.from_bytes(content_hash(text.encode())[:8], "little")


def test_every_document_arrives_under_its_id_with_the_tokenizers_ids(store: Path, texts: list[str]) -> None:
    tokenizer = load_tokenizer(store)
    expected = {doc_id(text): tokenizer.encode(text, add_special_tokens=False).ids for text in texts}
    assert documents(store) == expected
    counts = load_manifest(open_place(store)).counts
    assert counts["documents"] + counts["documents_heldout"] == counts["documents_read"] == len(texts)
    assert counts["tokens"] + counts["tokens_heldout"] == sum(map(len, expected.values()))
    assert 5 <= counts["documents_heldout"] <= 40
    assert counts["duplicates"] == counts["bad_lines"] == counts["too_short"] == counts["too_long"] == 0


def test_token_counts_are_those_of_the_train_split(store: Path) -> None:
    manifest = load_manifest(open_place(store))
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
        def prepare(self, function: Callable[[Any], None], job: Any) -> None:
            pass

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


def test_a_second_run_does_nothing_and_reports_that(
    config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    build_store(config())
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    capsys.readouterr()
    build_store(config())
    assert "already built" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_a_build_killed_after_its_manifest_leaves_no_work_behind(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "clear_work", killed)
        with pytest.raises(Killed):
            build_store(config())
    work = tmp_path / "store" / ".build"
    assert any(path.is_dir() for path in work.iterdir())
    build_store(config())
    assert sorted(path.name for path in work.iterdir()) == ["finished.json", "lock"]


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
    settings = load_manifest(open_place(store)).settings
    assert not {"workers", "out", "engine"} & settings.keys()
    assert str(store.parent) not in json.dumps(settings)


def test_a_folder_with_other_things_is_not_written_to(config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not empty and not a store"):
        build_store(config())
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["thesis.tex"]


def test_two_builds_of_one_store_exclude_each_other(config: MakeConfig, tmp_path: Path) -> None:
    from data_pipeline.build.claim import store_lock

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


def given_tokenizer(store: Path) -> TokenizerConfig:
    """The vocabulary of a finished store, to build with in one pass."""
    return TokenizerConfig(path=str(store / "tokenizer"))


def shard_bytes(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.glob("*.arrow")}


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("deduplicate", [True, False])
def test_one_pass_gives_the_shards_and_counts_of_two_passes(
    tmp_path: Path, texts: list[str], deduplicate: bool, spread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Repeats within a task and across tasks, also of text without a token.
    repeated = [*texts[:60], "\u200b", *texts[50:120], texts[3], *texts[100:], "\u200b", *texts[:10]]
    for name, part in (("a", repeated[:130]), ("b", repeated[130:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(part) + "\n")
    source = SourceConfig(kind="text", paths=[str(tmp_path / "*.txt")], documents="line")
    changes: dict[str, Any] = {"clean": CleanConfig(deduplicate=deduplicate)}
    if spread:
        monkeypatch.setattr("data_pipeline.build.task_shards.MAX_SHARD_TOKENS", 500)
    two = build_store(make_config(tmp_path / "two", source, **changes))
    changes["tokenizer"] = given_tokenizer(tmp_path / "two")
    one = build_store(make_config(tmp_path / "one", source, **changes))
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "two")
    assert len(one.shards) > 10
    assert one.counts == two.counts
    assert one.counts["without_tokens"] == (1 if deduplicate else 2)
    assert (one.counts["duplicates"] > 30) is deduplicate
    assert (tmp_path / "one" / "token_counts.npy").read_bytes() == (tmp_path / "two" / "token_counts.npy").read_bytes()
    assert verify_store(tmp_path / "one") == []


@pytest.mark.parametrize("whitespace", [True, False])
def test_words_and_characters_are_those_of_the_train_documents(tmp_path: Path, whitespace: bool) -> None:
    spaces = [" ", "\t ", "\u00a0", "\u00a0 \r\n", "\u2003", "\u3000\u2028", "\x1c", "\x85", " \u00a0\v", "\u200b"]
    texts = [f"{space}Tale{space}number {n},{space}the end.{space}" for n, space in enumerate(spaces * 4)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = SourceConfig(kind="jsonl", paths=[str(tmp_path / "a.jsonl")])
    clean = CleanConfig(whitespace=whitespace)
    manifest = build_store(
        make_config(tmp_path / "s", source, clean=clean, tokenizer=TokenizerConfig(vocab_size=64, min_frequency=1))
    )
    ids = {int(doc) for entry in manifest.split("train") for doc in open_shard(tmp_path / "s" / entry.name).doc}
    cleaned = [Cleaner(clean).clean(text).data.decode() for text in texts]
    trained_on = [text for text in cleaned if doc_id(text) in ids]
    assert 20 < len(trained_on) < 40
    assert manifest.counts["words"] == sum(len(text.split()) for text in trained_on)
    assert manifest.counts["characters"] == sum(map(len, trained_on))


def test_near_duplicates_keep_the_first_and_are_counted(
    tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [f"{texts[n]} {texts[n + 1]} {texts[n + 2]} {texts[n + 3]} {texts[n + 4]}" for n in range(0, 190, 5)]
    nearly = [f"{text} Told again." for text in long[:12]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in [*long, *nearly, long[20]]))
    (tmp_path / "b.jsonl").write_text("not JSON\n" * 1000)  # tasks without a document
    source = SourceConfig(kind="jsonl", paths=[str(tmp_path / "*.jsonl")])
    stores = {}
    for name, row_bytes in (("ample", 64), ("tight", 1 << 17)):
        monkeypatch.setattr("data_pipeline.deduplicate.choose._ROW_BYTES", row_bytes)
        config = make_config(
            tmp_path / name,
            source,
            clean=CleanConfig(near_duplicates=0.5),
            held_out=0.0,
            memory=1 << 20,
            most_left_out=1.0,
        )
        manifest = build_store(config)
        assert manifest.counts["near_duplicates"] == len(nearly)
        assert manifest.counts["duplicates"] == 1
        assert manifest.counts["bad_lines"] == 1000
        stores[name] = store_bytes(tmp_path / name)
    assert set(documents(tmp_path / "ample")) == {doc_id(text) for text in long}
    assert stores["ample"] == stores["tight"]


def test_memory_changes_nothing_but_the_passes(
    config: MakeConfig,
    tmp_path: Path,
    store: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if each document took more: the corpus is too small to fill the least memory that may be set.
    monkeypatch.setattr("data_pipeline.deduplicate.choose._ROW_BYTES", 1 << 17)
    build_store(config("tight", memory=1 << 20))
    assert "200 documents in 34 passes over the records, as memory allows" in capsys.readouterr().err
    assert store_bytes(tmp_path / "tight") == store_bytes(store)


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
    name = load_manifest(open_place(tmp_path / "wide")).shards[0].name
    assert open_shard(tmp_path / "wide" / name).ids.dtype == np.uint32


def test_a_large_task_is_spread_over_shards(
    config: MakeConfig, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.build.task_shards.MAX_SHARD_TOKENS", 500)
    build_store(config("spread"))
    shards = load_manifest(open_place(tmp_path / "spread")).shards
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
    decide = build_module.decide

    def change_then_decide(*arguments: Any) -> Any:
        jsonl.write_bytes(jsonl.read_bytes().replace(b"number", b"NUMBER"))
        return decide(*arguments)

    monkeypatch.setattr(build_module, "decide", change_then_decide)
    with pytest.raises(UserError, match="an input changed while it was being read"):
        build_store(config())
