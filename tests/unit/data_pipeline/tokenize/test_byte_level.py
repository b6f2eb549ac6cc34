"""A trained byte-level BPE is the same every time, knows every text, and is transformers' too."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline.build.build import build_store
from data_pipeline.config import BuildConfig, TokenizerConfig
from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.report.describe import describe_store
from data_pipeline.store.manifest import load_manifest
from data_pipeline.tokenize.roles import SPECIAL_TOKENS
from data_pipeline.tokenize.tokenizer import load_tokenizer, text_encoder

MakeConfig = Callable[..., BuildConfig]
BPE = TokenizerConfig(kind="bpe", vocab_size=400)

_TRAIN = """
import sys
from data_pipeline.config import TokenizerConfig
from data_pipeline.tokenize.byte_level import train_byte_level
from data_pipeline.tokenize.tokenizer import tokenizer_fingerprint
from data_pipeline.tokenize.vocabulary import TrainingStatistics
statistics = TrainingStatistics()
texts = [statistics.add_as_it_is(text) for text in open(sys.argv[1], encoding="utf-8")]
print(tokenizer_fingerprint(train_byte_level(iter(texts), statistics, TokenizerConfig(kind="bpe", vocab_size=400))))
"""


@pytest.mark.slow
def test_training_in_separate_processes_gives_the_same_merges(tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts) + "\nÜber ½ naïve 東京 αβγ\n", "utf-8")
    found = set()
    for seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": str(seed == "1").lower()}
        command = [sys.executable, "-c", _TRAIN, str(path)]
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


def test_a_store_of_byte_pairs_gives_the_ids_of_transformers_on_any_text(
    config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    store = tmp_path / "bytes"
    manifest = build_store(config("bytes", tokenizer=BPE))
    shown = capsys.readouterr().err
    assert "400 entries of byte-level BPE" in shown
    assert "unknown tokens: none" in shown
    assert manifest.settings["tokenizer"] == {
        "kind": "bpe",
        "lowercase": False,
        "vocab_size": 400,
        "sample_bytes": 100_000_000,
        "seed": 0,
        "min_frequency": 2,
    }
    assert manifest.counts["unknown_tokens"] == 0
    lines = list(describe_store(store, 1))
    assert any(line.startswith("tokenizer    byte-level BPE, 400 entries") for line in lines)
    assert any(line.startswith("unknown      none") for line in lines)
    ours, theirs = load_tokenizer(store), AutoTokenizer.from_pretrained(store / "tokenizer")
    assert [ours.token_to_id(name) for name in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    encoder = text_encoder(ours)

    @settings(max_examples=60, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"])))
    @example("The River\n  of Café 東京 \U0001f600 don't")
    def same(text: str) -> None:
        ids = encoder.encode(text, add_special_tokens=False).ids
        assert ids == theirs(text, add_special_tokens=False)["input_ids"]
        assert not {0, 1, 2, 3, 4} & set(ids)

    same()
    # A mask stands for a word with its blank.
    assert theirs("river [MASK] stone")["input_ids"].count(4) == 1
    plain = [*theirs("river")["input_ids"][:-1], 4, *theirs(" stone")["input_ids"][1:]]
    assert theirs("river [MASK] stone")["input_ids"] == plain


def test_a_store_of_word_pieces_has_the_settings_of_before(store: Path) -> None:
    settings = load_manifest(open_place(store)).settings["tokenizer"]
    names = ["lowercase", "vocab_size", "sample_bytes", "seed", "min_frequency", "alphabet"]
    assert sorted(settings) == sorted(names)
    assert settings["lowercase"] is True


def test_lower_case_takes_accents_off_and_case_stays_otherwise(config: MakeConfig, tmp_path: Path) -> None:
    for lowercase, decoded in ((True, "the cafe"), (None, "The Café")):
        name = f"store-{lowercase}"
        build_store(config(name, tokenizer=TokenizerConfig(kind="bpe", vocab_size=300, lowercase=lowercase)))
        tokenizer = load_tokenizer(tmp_path / name)
        assert tokenizer.decode(tokenizer.encode("The Cafe\u0301").ids) == decoded


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (TokenizerConfig(kind="bpe", vocab_size=260), "vocab_size is 260 but .* the 256 bytes alone need 261"),
        (TokenizerConfig(kind="bpe", alphabet=500), "tokenizer.alphabet is 500"),
        (TokenizerConfig(kind="bpe", path="somewhere"), "tokenizer.path is 'somewhere'"),
    ],
)
def test_settings_that_byte_pairs_cannot_have_are_refused(
    config: MakeConfig, tokenizer: TokenizerConfig, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_store(config(tokenizer=tokenizer))


def test_long_and_encoded_words_do_not_fill_the_vocabulary(config: MakeConfig, tmp_path: Path) -> None:
    from data_pipeline.tokenize.byte_level import train_byte_level
    from data_pipeline.tokenize.vocabulary import TrainingStatistics

    texts = [f"the river {hashlib.sha256(str(n).encode()).hexdigest()}" for n in range(50)]
    statistics = TrainingStatistics()
    texts = [statistics.add_as_it_is(text) for text in texts]
    assert any("hexadecimal" in line for line in statistics.report())
    tokenizer = train_byte_level(iter(texts), statistics, BPE)
    assert tokenizer.get_vocab_size() < 290
