"""The quick engine is used only where its ids are those of tokenizers, and a line reports which one runs."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from data_pipeline.errors import UserError
from data_pipeline.tokenize import encoding
from data_pipeline.tokenize.description import tokenizer_json
from data_pipeline.tokenize.encoding import TextEncoder, choose_encoder, open_encoder
from data_pipeline.tokenize.probes import PROBES
from data_pipeline.tokenize.roles import SPECIAL_TOKENS
from data_pipeline.tokenize.tokenizer import text_encoder, wordpiece_tokenizer

NANOTOKEN = "pip install 'electra-scale[fast]'"

# Characters of many scripts as single entries, so that a wrong normal form shows as another id and not as [UNK].
_CHARACTERS = sorted({*map(chr, range(33, 0x530)), *map(chr, range(0x4E00, 0x4E40)), *map(chr, range(0x1100, 0x1120))})
_WORDS = ["the", "end", "##ing", "##ed", "river", "stone", "caf", "##fe", "mask", "un", "##k", "東京"]


def _tokenizer(lowercase: bool) -> Tokenizer:
    vocabulary: dict[str, int] = {}
    for entry in (*SPECIAL_TOKENS, *_WORDS, *_CHARACTERS, *(f"##{character}" for character in _CHARACTERS)):
        vocabulary.setdefault(entry, len(vocabulary))
    return wordpiece_tokenizer(vocabulary, lowercase)


def _rows(encoder: TextEncoder, texts: list[str]) -> list[list[int]]:
    ids, offsets = encoder.encode(texts)
    assert (ids.dtype, offsets.dtype) == (np.uint32, np.int64)
    assert offsets.shape == (len(texts) + 1,)
    assert (int(offsets[0]), int(offsets[-1])) == (0, len(ids))
    return [ids[begin:end].tolist() for begin, end in itertools.pairwise(offsets)]


def _plain_rows(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    plain = text_encoder(tokenizer)
    return [plain.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.fixture(params=[True, False], ids=["lowercase", "cased"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return _tokenizer(request.param)


@pytest.fixture
def nanotoken(require_part: Callable[[bool, str], None]) -> None:
    try:
        import nanotoken  # noqa: F401
    except ImportError:
        require_part(False, NANOTOKEN)


_PIECES = st.one_of(
    st.sampled_from([*SPECIAL_TOKENS, *_WORDS, " ", "\n", "\u0301", "\u0130", "\u00df", "\u200d", "x" * 101]),
    st.text(max_size=8),
    st.characters(codec="utf-8"),
)
_TEXTS = st.lists(st.one_of(st.text(), st.lists(_PIECES, max_size=30).map("".join)), max_size=6)


@pytest.mark.usefixtures("nanotoken")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=_TEXTS)
@example(texts=list(PROBES))
def test_the_quick_engine_gives_the_ids_of_tokenizers_on_any_text(
    tokenizer: Tokenizer, quick: TextEncoder, texts: list[str]
) -> None:
    assert _rows(quick, texts) == _plain_rows(tokenizer, texts)


@pytest.fixture
def quick(tokenizer: Tokenizer) -> TextEncoder:
    """The engine that a build would choose, which is the quick one."""
    data = tokenizer_json(tokenizer)
    choice = choose_encoder(data, ["the river", "stone"])
    assert choice.name == "nanotoken"
    assert choice.line == (
        f"tokenizing with nanotoken: its ids are those of tokenizers on 2 texts of this build and {len(PROBES)} probes"
    )
    return open_encoder(data, choice.name)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=_TEXTS)
def test_the_reference_engine_gives_the_ids_of_tokenizers_text_by_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert _rows(open_encoder(tokenizer_json(tokenizer), "tokenizers"), texts) == _plain_rows(tokenizer, texts)


@pytest.mark.usefixtures("nanotoken")
@pytest.mark.parametrize("engine", ["nanotoken", "tokenizers"])
def test_no_special_id_comes_from_a_text_and_nothing_is_cut(tokenizer: Tokenizer, engine: str) -> None:
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    encoder = open_encoder(tokenizer_json(tokenizer), engine)
    (special, long) = _rows(encoder, ["[MASK] the [SEP] end [CLS][PAD]", "the river " * 1000])
    assert not {0, 2, 3, 4} & set(special)
    assert len(special) > 8
    assert len(long) == 2000
    assert _rows(encoder, []) == []


def test_without_the_quick_engine_tokenizers_is_used_and_a_line_names_the_install(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nanotoken", None)
    data = tokenizer_json(tokenizer)
    choice = choose_encoder(data, ["the river"])
    assert choice.name == "tokenizers"
    assert choice.line == (
        "tokenizing with tokenizers: faster tokenizing needs nanotoken, which is not installed: "
        "pip install 'electra-scale[fast]'"
    )
    with pytest.raises(UserError, match="not installed"):
        open_encoder(data, "nanotoken")


def _replacing() -> Tokenizer:
    tokenizer = _tokenizer(True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("x", "y"), normalizers.BertNormalizer()])
    return tokenizer


def _byte_pairs() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({"[UNK]": 0, "a": 1, "b": 2, "ab": 3}, [("a", "b")], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.mark.usefixtures("nanotoken")
@pytest.mark.parametrize("make", [_replacing, _byte_pairs])
def test_a_tokenizer_that_the_quick_engine_does_not_know_keeps_its_ids(make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    data = tokenizer_json(tokenizer)
    choice = choose_encoder(data, ["ab x"])
    assert choice.name == "tokenizers"
    assert choice.line.startswith("tokenizing with tokenizers: nanotoken can't represent this tokenizer (")
    assert "\n" not in choice.line
    texts = ["ab a b", "x the ab"]
    assert _rows(open_encoder(data, choice.name), texts) == _plain_rows(tokenizer, texts)


@pytest.mark.usefixtures("nanotoken")
@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("normalizer", "lowercase", False),
        ("normalizer", "strip_accents", False),
        ("normalizer", "clean_text", False),
        ("normalizer", "handle_chinese_chars", False),
        ("model", "max_input_chars_per_word", 101),
    ],
)
def test_the_probes_find_an_engine_that_breaks_one_rule(
    part: str, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = encoding._plain_text_json

    def wrong(data: bytes) -> str:
        raw: dict[str, Any] = json.loads(right(data))
        assert raw[part][name] != value
        raw[part][name] = value
        return json.dumps(raw)

    monkeypatch.setattr(encoding, "_plain_text_json", wrong)
    # A vocabulary that knows next to nothing must not hide the difference.
    small = wordpiece_tokenizer({token: number for number, token in enumerate([*SPECIAL_TOKENS, "a"])}, True)
    choice = choose_encoder(tokenizer_json(small), [])
    assert choice.name == "tokenizers"
    assert choice.line.startswith("tokenizing with tokenizers: nanotoken gives other ids for ")


@pytest.mark.usefixtures("nanotoken")
def test_a_difference_only_in_the_builds_own_text_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = encoding._plain_text_json

    def wrong(data: bytes) -> str:
        raw: dict[str, Any] = json.loads(right(data))
        raw["model"]["vocab"].pop("river", None)
        return json.dumps(raw)

    monkeypatch.setattr(encoding, "_plain_text_json", wrong)
    data = tokenizer_json(_tokenizer(True))
    assert choose_encoder(data, ["the stone", "the end"]).name == "nanotoken"
    choice = choose_encoder(data, ["the stone", "the river", "the end"])
    assert (choice.name, choice.line) == (
        "tokenizers",
        "tokenizing with tokenizers: nanotoken gives other ids for 'the river'",
    )
