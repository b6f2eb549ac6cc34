"""Vocabularies are reproducible, complete, and mean the same to tokenizers and transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from data_pipeline.build.build import build_store
from data_pipeline.config import BuildConfig, TokenizerConfig
from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.store.manifest import load_manifest
from data_pipeline.tokenize.roles import SPECIAL_TOKENS
from data_pipeline.tokenize.tokenizer import load_tokenizer, text_encoder, tokenizer_fingerprint, wordpiece_tokenizer
from tests.unit.data_pipeline.tokenize.test_existing import read_tokenizer

MakeConfig = Callable[..., BuildConfig]

_TRAIN = """
import sys
from data_pipeline.config import TokenizerConfig
from data_pipeline.tokenize.tokenizer import tokenizer_fingerprint
from data_pipeline.tokenize.vocabulary import TrainingStatistics, normalized, train_tokenizer
texts = [normalized(text, True) for text in open(sys.argv[1], encoding="utf-8")]
statistics, words = TrainingStatistics(), set()
for text in texts:
    statistics.add(text, words)
statistics.find_inner(words)
print(tokenizer_fingerprint(train_tokenizer(iter(texts), statistics, TokenizerConfig(vocab_size=300))))
"""


def test_training_in_separate_processes_gives_one_vocabulary(tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts) + "\nÜber ½ naïve 東京 αβγ\n", "utf-8")
    fingerprints = set()
    for seed in ("0", "1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": str(seed == "1").lower()}
        result = subprocess.run(
            [sys.executable, "-c", _TRAIN, str(path)], env=environment, capture_output=True, text=True, check=True
        )
        fingerprints.add(result.stdout)
    assert len(fingerprints) == 1


def test_a_trained_vocabulary_is_full_and_starts_with_the_special_tokens(store: Path) -> None:
    lines = (store / "tokenizer" / "vocab.txt").read_text("utf-8").splitlines()
    assert lines[:5] == list(SPECIAL_TOKENS)
    assert len(lines) == len(set(lines)) == 200
    assert load_manifest(open_place(store)).tokenizer.vocab_size == 200


def test_the_stores_fingerprint_is_that_of_its_tokenizer(store: Path) -> None:
    manifest = load_manifest(open_place(store))
    assert tokenizer_fingerprint(load_tokenizer(store)) == manifest.tokenizer.fingerprint
    assert manifest.tokenizer.files["tokenizer/tokenizer.json"] == manifest.tokenizer.fingerprint


def test_transformers_loads_the_store_and_gives_the_same_ids(store: Path, texts: list[str]) -> None:
    from transformers import AutoTokenizer

    ours = load_tokenizer(store)
    theirs = AutoTokenizer.from_pretrained(store / "tokenizer")
    assert theirs.is_fast
    assert [theirs.pad_token_id, theirs.unk_token_id, theirs.cls_token_id] == [0, 1, 2]
    assert [theirs.sep_token_id, theirs.mask_token_id] == [3, 4]
    for text in texts[:20]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text, add_special_tokens=False).ids
    pair = theirs("river stone", "light")
    assert pair["input_ids"] == ours.encode("river stone", "light").ids
    assert pair["token_type_ids"][0] == 0
    assert pair["token_type_ids"][-1] == 1


@pytest.fixture
def vocabulary(tmp_path: Path, store: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_bytes((store / "tokenizer" / "vocab.txt").read_bytes())
    return path


def test_an_existing_vocab_txt_gives_the_ids_of_tokenizers(
    config: MakeConfig, vocabulary: Path, texts: list[str], tmp_path: Path
) -> None:
    reference = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    build_store(config("second", tokenizer=TokenizerConfig(path=str(vocabulary))))
    ours = text_encoder(load_tokenizer(tmp_path / "second"))
    for text in [*texts[:30], "Ünïcode, 東京 & x" * 3, "a" * 150]:
        assert ours.encode(text, add_special_tokens=False).ids == reference.encode(text, add_special_tokens=False).ids


def test_an_existing_tokenizer_json_gives_its_own_ids(
    config: MakeConfig, vocabulary: Path, texts: list[str], tmp_path: Path
) -> None:
    reference = BertWordPieceTokenizer(str(vocabulary), lowercase=False)
    path = tmp_path / "tokenizer.json"
    reference.enable_truncation(8)
    reference.enable_padding(length=8)
    reference.save(str(path))
    build_store(config("second", tokenizer=TokenizerConfig(path=str(path))))
    plain = Tokenizer.from_file(str(path))
    plain.no_truncation()
    plain.no_padding()
    ours = load_tokenizer(tmp_path / "second")
    for text in texts[:30]:
        assert ours.encode(text, add_special_tokens=False).ids == plain.encode(text, add_special_tokens=False).ids


def test_a_vocabulary_without_special_tokens_is_refused(tmp_path: Path, vocabulary: Path) -> None:
    vocabulary.write_text(vocabulary.read_text("utf-8").replace("[MASK]\n", "[OTHER]\n"), "utf-8")
    with pytest.raises(UserError, match=r"vocab\.txt lacks \[MASK\]"):
        read_tokenizer(vocabulary, lowercase=True)
    full = wordpiece_tokenizer({token: n for n, token in enumerate([*SPECIAL_TOKENS, "a"])}, lowercase=True)
    raw = json.loads(full.to_str())
    del raw["model"]["vocab"]["[SEP]"]
    raw["added_tokens"] = []
    raw["post_processor"] = None
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=r"tokenizer\.json lacks \[SEP\]"):
        read_tokenizer(path, lowercase=True)


def test_unreadable_tokenizers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "twice.txt").write_text("[PAD]\n[UNK]\n[UNK]\n")
    for path, message in (("tokenizer.json", "cannot read"), ("twice.txt", "occurs twice"), ("no.txt", "no file")):
        with pytest.raises(UserError, match=message):
            read_tokenizer(tmp_path / path, lowercase=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor vocab\.txt"):
        read_tokenizer(tmp_path / "empty", lowercase=True)


def test_a_vocabulary_too_small_for_its_characters_is_refused(config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size is 40 but"):
        build_store(config(tokenizer=TokenizerConfig(vocab_size=40)))
