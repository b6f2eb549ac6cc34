"""Text of the held-out split again from its ids, for tokenizers of any kind, or a refusal."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_pipeline.build.build import build_store
from data_pipeline.config import BuildConfig, SourceConfig, TokenizerConfig
from data_pipeline.store.manifest import ShardEntry
from data_pipeline.tokenize.roles import SPECIAL_TOKENS
from data_pipeline.tokenize.tokenizer import text_encoder
from electra_scale.data.heldout_text import UnreadableText, heldout_documents, text_of, training_documents
from electra_scale.data.store import MappedShard, Store

TEXTS = [
    f"Mr. Brown's boat, number {n}, did not leave the well-known harbour (at {n}.5 miles) before noon; it's slow!"
    for n in range(40)
]


def make_store(folder: Path, tokenizer: Path | None = None, task_bytes: int = 100_000) -> Store:
    (folder / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    build_store(
        BuildConfig(
            out=str(folder / "store"),
            sources=[SourceConfig(kind="jsonl", paths=[str(folder / "docs.jsonl")])],
            tokenizer=TokenizerConfig(vocab_size=120, path=None if tokenizer is None else str(tokenizer)),
            held_out=0.5,
            task_bytes=task_bytes,
            workers=1,
        )
    )
    return Store(folder / "store")


def byte_level(folder: Path, decoder: bool = True) -> Path:
    """A tokenizer such as RoBERTa's, of bytes and pairs of them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if decoder:
        tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_wordpiece_comes_back_with_the_spaces_of_plain_english_and_the_same_ids(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    documents = heldout_documents(store)
    assert documents
    assert set(documents) <= {text.lower() for text in TEXTS}
    tokenizer = Tokenizer.from_file(str(store.tokenizer_dir / "tokenizer.json"))
    decode, encoder = text_of(tokenizer), text_encoder(tokenizer)
    ids, offsets = store.documents("heldout", 10**6)
    for first, last in pairwise(offsets):
        assert encoder.encode(decode(ids[first:last]), add_special_tokens=False).ids == ids[first:last].tolist()


def test_text_that_is_trained_on_is_read_for_counting_and_is_none_of_the_held_out(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    counted = list(training_documents(store))
    assert len(counted) + len(heldout_documents(store)) == len(TEXTS)
    assert not set(counted) & set(heldout_documents(store))
    assert set(counted) <= {text.lower() for text in TEXTS}


def test_counting_reads_four_shards_whatever_a_store_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path, task_bytes=1024)
    assert len([entry for entry in store.manifest.split("train") if entry.tokens]) > 4
    opened: set[str] = set()
    real = Store.open

    def noted(self: Store, entry: ShardEntry) -> MappedShard:
        opened.add(entry.name)
        return real(self, entry)

    monkeypatch.setattr(Store, "open", noted)
    assert list(training_documents(store))
    assert len(opened) == 4


def test_byte_pairs_come_back_as_they_were(tmp_path: Path) -> None:
    documents = heldout_documents(make_store(tmp_path, byte_level(tmp_path)))
    assert documents
    assert set(documents) <= set(TEXTS)


def test_a_tokenizer_whose_ids_do_not_become_text_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path, byte_level(tmp_path, decoder=False))
    with pytest.raises(UnreadableText, match="does not turn its ids into the text"):
        heldout_documents(store)


def test_more_text_than_is_wanted_is_read_from_all_shards(tmp_path: Path) -> None:
    store = make_store(tmp_path, task_bytes=1024)
    shards = [entry for entry in store.manifest.split("heldout") if entry.tokens]
    assert len(shards) > 2
    whole = heldout_documents(store)
    some = heldout_documents(store, most_tokens=sum(entry.tokens for entry in shards) // 2)
    assert len(shards) <= len(some) < len(whole)
    assert heldout_documents(store, most_tokens=10**9) == whole
