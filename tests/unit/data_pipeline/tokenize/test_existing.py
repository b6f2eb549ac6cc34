"""An existing tokenizer is taken with all that its folder says, and no text gives a special id."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.implementations import BertWordPieceTokenizer

from data_pipeline.build.build import build_store
from data_pipeline.config import BuildConfig, SourceConfig, TokenizerConfig
from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.store.manifest import load_manifest
from data_pipeline.tokenize import existing
from data_pipeline.tokenize.description import tokenizer_json
from data_pipeline.tokenize.encoding import choose_encoder, open_encoder
from data_pipeline.tokenize.probes import PROBES
from data_pipeline.tokenize.roles import BERT_ROLES, SPECIAL_TOKENS
from data_pipeline.tokenize.tokenizer import (
    load_tokenizer,
    text_encoder,
    tokenizer_fingerprint,
    wordpiece_tokenizer,
)
from tests.unit.data_pipeline.conftest import make_config

WORDS = ["the", "The", "##s", "caf", "##e", "café", "cafe", "東", "京", "東京", "T", "##h", "Stra", "##ße", "new", "zq"]
CHARACTERS = sorted(
    {
        *map(chr, range(33, 127)),
        *map(chr, range(0xA1, 0x250)),
        *map(chr, range(0x4E00, 0x4E20)),
        *map(chr, range(0x3041, 0x3060)),
    }
)
VOCABULARY = list(dict.fromkeys([*SPECIAL_TOKENS, *WORDS, *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]))
TEXTS = [text for text in PROBES if not any(token in text for token in SPECIAL_TOKENS)]
TEXTS += ["The café of 東京 and Straße", "ÀÉ àé", "new zq NEW", "the" * 30]
BERT = {"tokenizer_class": "BertTokenizer"}


def read_tokenizer(path: Path, lowercase: bool, report: Callable[[str], None] = lambda line: None) -> Tokenizer:
    """The tokenizer alone, without the roles of its special tokens."""
    return existing.read_tokenizer(path, lowercase, report)[0]


def folder_of(path: Path, tokenizer: Tokenizer | None = None, **files: object) -> Path:
    """A folder with a vocab.txt, or with a tokenizer.json, and JSON files (``a__json`` for a.json)."""
    path.mkdir(exist_ok=True)
    if tokenizer is None:
        (path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    else:
        tokenizer.save(str(path / "tokenizer.json"))
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(json.dumps(content))
    return path


def theirs(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(text_encoder(tokenizer).encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config__json": BERT},
        {"tokenizer_config__json": {"do_lower_case": False, **BERT}},
        {"tokenizer_config__json": {"do_lower_case": False}, "config__json": {"model_type": "electra"}},
        {"tokenizer_config__json": {"tokenizer_class": "ElectraTokenizerFast", "strip_accents": False}},
        {"tokenizer_config__json": {"do_lower_case": False, "strip_accents": True, **BERT}},
        {"tokenizer_config__json": {"tokenize_chinese_chars": False, **BERT}},
        {"tokenizer_config__json": {"never_split": ["The"], "model_max_length": 128, **BERT}},
        {"tokenizer_config__json": {"unk_token": "zq", **BERT}},
        {"tokenizer_config__json": BERT, "added_tokens__json": {"of 東": len(VOCABULARY), "<b>": len(VOCABULARY) + 1}},
        {"tokenizer_config__json": BERT, "special_tokens_map__json": {"additional_special_tokens": ["<a>"]}},
        {
            "tokenizer_config__json": {"do_lower_case": False, **BERT},
            "special_tokens_map__json": {"mask_token": "[MASK]"},
        },
    ],
)
def test_what_the_folder_of_a_vocabulary_says_holds(tmp_path: Path, files: dict[str, object]) -> None:
    folder = folder_of(tmp_path / "given", **files)
    ours, reference = read_tokenizer(folder, lowercase=True), theirs(folder)
    assert ours.get_vocab(with_added_tokens=True) == reference.get_vocab()
    for text in TEXTS:
        if not any(token in text for token in reference.all_special_tokens):
            assert ids(ours, text) == reference(text, add_special_tokens=False)["input_ids"], text


def test_a_folder_that_names_no_class_is_bert_with_what_it_says(tmp_path: Path) -> None:
    cased = ids(wordpiece_tokenizer({token: n for n, token in enumerate(VOCABULARY)}, lowercase=False), TEXTS[-4])
    said = folder_of(tmp_path / "a", tokenizer_config__json={"do_lower_case": False})
    assert ids(read_tokenizer(said, lowercase=True), TEXTS[-4]) == cased
    unsaid = folder_of(tmp_path / "b", tokenizer_config__json={"model_max_length": 128})
    assert ids(read_tokenizer(unsaid, lowercase=False), TEXTS[-4]) == cased
    assert ids(read_tokenizer(unsaid, lowercase=True), TEXTS[-4]) != cased


def test_the_configuration_wins_over_a_tokenizer_json_that_contradicts_it(tmp_path: Path) -> None:
    plain = folder_of(tmp_path / "plain")
    lower = BertWordPieceTokenizer(str(plain / "vocab.txt"), lowercase=True)._tokenizer
    for number, config in enumerate([{"do_lower_case": False, **BERT}, {"do_lower_case": False}, BERT]):
        folder = folder_of(tmp_path / str(number), lower, tokenizer_config__json=config)
        ours, reference = read_tokenizer(folder, lowercase=True), theirs(folder)
        for text in TEXTS:
            assert ids(ours, text) == reference(text, add_special_tokens=False)["input_ids"]


def byte_pairs() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=[*SPECIAL_TOKENS, "</s>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cafe the café </s> <mask> [MASK] [CLS]"] * 5, trainer)
    return tokenizer


def merged() -> Tokenizer:
    """Byte pairs that spell a special token, by merges and as a whole word."""
    parts = ["[", "M", "A", "S", "K", "]", "a", "[M", "AS", "K]", "[MAS"]
    tokens = [*SPECIAL_TOKENS, *parts]
    pairs = [("[", "M"), ("A", "S"), ("K", "]"), ("[M", "AS"), ("[MAS", "K]")]
    model = models.BPE({token: n for n, token in enumerate(tokens)}, pairs, unk_token="[UNK]", ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def unigram(unknown: int | None = 1) -> Tokenizer:
    characters = "▁the café東京[]MASKCLPDU</s>"
    pieces = [*((token, 0.0) for token in [*SPECIAL_TOKENS, "</s>"]), *((c, -3.0) for c in sorted(set(characters)))]
    tokenizer = Tokenizer(models.Unigram([*pieces, ("the", -1.0)], unk_id=unknown))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def word_level(unknown: str = "[UNK]") -> Tokenizer:
    words = [*SPECIAL_TOKENS, "</s>", "<mask>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({token: n for n, token in enumerate(words)}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["</s>", "<mask>"])
    return tokenizer


def whole_words() -> Tokenizer:
    """WordPiece that splits at blanks only, so that a special token is a word like others."""
    tokens = {token: n for n, token in enumerate([*VOCABULARY, "</s>"])}
    tokenizer = Tokenizer(models.WordPiece(tokens, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken("</s>", lstrip=True, single_word=True, normalized=True)])
    # Named, but not as special; and beyond the model.
    tokenizer.add_tokens([AddedToken("[CLS]"), AddedToken("bridge", single_word=True)])
    return tokenizer


KINDS: list[Callable[[], Tokenizer]] = [byte_pairs, merged, unigram, word_level, whole_words]


@pytest.mark.parametrize("make", KINDS)
def test_no_literal_token_in_a_text_becomes_a_special_id(make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    made = make()
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]", "eos_token": "</s>"}
    if make is merged:
        del config["eos_token"]
    folder = folder_of(tmp_path / "given", made, tokenizer_config__json=config)
    for path in (folder, folder / "tokenizer.json"):
        tokenizer = read_tokenizer(path, lowercase=True)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        names = [name for name in (*SPECIAL_TOKENS, "</s>", "<mask>") if name in vocabulary]
        forbidden = {vocabulary[name] for name in names} - {vocabulary["[UNK]"]}
        texts = [form.replace("?", name) for name in names for form in ("?", "the ? end", "x?y", " ?? ")]
        texts += ["［ＭＡＳＫ］", "the </s>", "[MASK] [CLS]"]
        data = tokenizer_json(tokenizer)
        encoder = open_encoder(data, choose_encoder(data, texts).name)
        flat, _ = encoder.encode(texts)
        assert not forbidden & set(flat.tolist())
        assert len(flat) >= len(texts) - 4
        # What is not special keeps its ids, in the same encoder.
        reference_of = theirs(folder)
        for text in TEXTS:
            reference = reference_of(text, add_special_tokens=False)["input_ids"]
            if not forbidden & set(reference) and not any(name in text for name in names):
                assert encoder.encode([text])[0].tolist() == reference
    if make is whole_words:
        assert ids(tokenizer, "the bridge") == [vocabulary["the"], vocabulary["bridge"]]


@pytest.mark.parametrize("make", [lambda: unigram(None), lambda: word_level("<nothing>"), lambda: unigram(6)])
def test_what_a_tokenizer_does_not_know_becomes_its_unknown_token(
    make: Callable[[], Tokenizer], tmp_path: Path
) -> None:
    lines: list[str] = []
    tokenizer = read_tokenizer(folder_of(tmp_path / "given", make()), True, lines.append)
    assert "does not put [CLS] and [SEP] around a text" in lines.pop()
    unknown = 6 if make().to_str().find('"unk_id":6') > 0 else 1
    assert unknown in ids(tokenizer, "the Ж")
    assert [line for line in lines if "becomes [UNK]" in line] == lines
    assert len(lines) == (unknown == 1)


def test_a_tokenizer_that_drops_what_it_does_not_know_says_so(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate([*SPECIAL_TOKENS, "a"])}, []))
    lines: list[str] = []
    assert ids(read_tokenizer(folder_of(tmp_path / "given", tokenizer), True, lines.append), "aЖa") == [5, 5]
    assert len(lines) == 2
    assert "characters that it does not know are left out" in lines[0]
    lines.clear()
    read_tokenizer(folder_of(tmp_path / "bytes", byte_pairs()), True, lines.append)
    assert [line for line in lines if "around a text" not in line] == []


def _dropout() -> Tokenizer:
    tokenizer = merged()
    tokenizer.model.dropout = 0.5
    return tokenizer


def _pieces_without_unknown() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([("[PAD]", 0.0), ("a", -1.0)], unk_id=None))
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if token != "[PAD]"])
    return tokenizer


def _added_beyond_a_gap() -> Tokenizer:
    raw = json.loads(word_level().to_str())
    raw["model"]["vocab"] = {token: n for token, n in raw["model"]["vocab"].items() if token not in ("[PAD]", "the")}
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    tokenizer.add_tokens(["zz", "yy"])
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


@pytest.mark.parametrize(
    ("make", "files", "message"),
    [
        (_added_beyond_a_gap, {}, "without gaps"),
        (None, {"tokenizer_config__json": {"mask_token": "[CLS]", **BERT}}, "one token for two of padding"),
        (None, {"tokenizer_config__json": {"auto_map": {"AutoTokenizer": ["a.B", None]}}}, "custom code"),
        (None, {"tokenizer_config__json": {"tokenizer_class": "BertJapaneseTokenizer"}}, "runs in Python only"),
        (None, {"tokenizer_config__json": []}, "is not a tokenizer that transformers can load"),
        (_dropout, {}, "leaves out merges at random"),
        (_pieces_without_unknown, {}, "has no unknown token"),
    ],
)
def test_a_folder_that_cannot_be_taken_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[], Tokenizer] | None, files: dict[str, object], message: str
) -> None:
    folder = folder_of(tmp_path / "given", make() if make else None, **files)
    with pytest.raises(UserError, match=message) as caught:
        read_tokenizer(folder, lowercase=True)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


PANIC = {
    "version": "1.0",
    "added_tokens": [],
    "model": {
        "type": "BPE",
        "continuing_subword_prefix": "longer than any",
        "vocab": {**{token: n for n, token in enumerate(SPECIAL_TOKENS)}, "a": 5, "b": 6, "ab": 7},
        "merges": [["a", "b"]],
    },
}
"""A file over which the library panics, which is no Exception, when it joins the pieces."""


@pytest.mark.parametrize("files", [{}, {"tokenizer_config__json": {"tokenizer_class": "PreTrainedTokenizerFast"}}])
def test_a_file_over_which_the_library_panics_is_refused_in_one_line(tmp_path: Path, files: dict[str, object]) -> None:
    folder = folder_of(tmp_path / "given", tokenizer__json=PANIC, **files)
    with pytest.raises(UserError, match="out of range") as caught:
        read_tokenizer(folder, lowercase=True)
    assert "\n" not in str(caught.value)


def test_two_entries_with_one_id_are_refused(tmp_path: Path) -> None:
    # The word would be a special token.
    raw = json.loads(word_level().to_str())
    raw["model"]["vocab"]["of"] = raw["model"]["vocab"]["[MASK]"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match=r"two entries with one id.* without gaps"):
        read_tokenizer(tmp_path, lowercase=True)


def test_a_sentencepiece_model_alone_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"\n\x05abc")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor vocab\.txt.* by save_pretrained"):
        read_tokenizer(tmp_path, lowercase=True)


def test_a_setting_that_contradicts_the_folder_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "given", tokenizer_config__json={"do_lower_case": False})
    with pytest.raises(UserError, match=r"tokenizer\.lowercase is true but .* says do_lower_case"):
        read_tokenizer(folder / "vocab.txt", lowercase=True)
    read_tokenizer(folder / "vocab.txt", lowercase=False)
    with pytest.raises(UserError, match=r"tokenizer\.lowercase is false but .* lower-cases text"):
        read_tokenizer(folder_of(tmp_path / "kind", tokenizer_config__json=BERT), lowercase=False)


def test_other_ids_than_those_of_transformers_are_refused_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "given", tokenizer_config__json=BERT)
    wrong = wordpiece_tokenizer({token: n for n, token in enumerate(VOCABULARY)}, lowercase=False)
    monkeypatch.setattr(existing, "_backend", lambda theirs, folder: (wrong, BERT_ROLES))
    monkeypatch.setattr(existing, "_rules", lambda tokenizer: None)
    with pytest.raises(UserError, match=r"given gives the ids \[.*\] for '.*', but transformers .* gives \[") as caught:
        read_tokenizer(folder, lowercase=True)
    assert "\n" not in str(caught.value)


def test_folders_that_were_right_before_keep_their_bytes(tmp_path: Path, store: Path) -> None:
    from transformers import BertTokenizerFast

    fingerprint = load_manifest(open_place(store)).tokenizer.fingerprint
    assert tokenizer_fingerprint(read_tokenizer(store / "tokenizer", lowercase=True)) == fingerprint
    plain = folder_of(tmp_path / "plain")
    alone = tokenizer_fingerprint(read_tokenizer(plain / "vocab.txt", lowercase=True))
    assert tokenizer_fingerprint(read_tokenizer(plain, lowercase=True)) == alone
    said = folder_of(tmp_path / "said", tokenizer_config__json={"do_lower_case": True, **BERT})
    assert tokenizer_fingerprint(read_tokenizer(said, lowercase=True)) == alone
    BertTokenizerFast.from_pretrained(plain).save_pretrained(tmp_path / "saved")
    saved = Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    saved.add_special_tokens(list(SPECIAL_TOKENS))
    assert tokenizer_fingerprint(read_tokenizer(tmp_path / "saved", lowercase=True)) == tokenizer_fingerprint(saved)


def test_a_build_takes_the_folder_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The café of 東京 [MASK]\n\nThe T [CLS] [UNK]\n")
    given = folder_of(tmp_path / "given", tokenizer_config__json={"do_lower_case": False})

    def config(path: Path, out: str) -> BuildConfig:
        source = SourceConfig(kind="text", paths=[str(tmp_path / "a.txt")])
        return make_config(tmp_path / out, source, tokenizer=TokenizerConfig(path=str(path)), held_out=0.0)

    manifest = build_store(config(given, "store"))
    assert ids(load_tokenizer(tmp_path / "store"), "The café") == [VOCABULARY.index("The"), VOCABULARY.index("café")]
    again = build_store(config(tmp_path / "store" / "tokenizer", "again"))
    assert again.fingerprint == manifest.fingerprint
