"""Whatever a tokenizer's folder holds: the ids of transformers, or one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from data_pipeline.tokenize.description import describe, tokenizer_json
from data_pipeline.tokenize.encoding import choose_encoder, open_encoder
from data_pipeline.tokenize.probes import PROBES
from data_pipeline.tokenize.roles import SPECIAL_TOKENS
from tests.support.instruments.fuzzing import explore
from tests.unit.data_pipeline.tokenize.test_existing import (
    BERT,
    KINDS,
    VOCABULARY,
    byte_pairs,
    read_tokenizer,
    theirs,
    unigram,
)

pytestmark = pytest.mark.slow

TEXTS = [*PROBES[::4], *SPECIAL_TOKENS, "</s> <mask> <s>", "The café of 東京 and Straße", "new zq the the"]
CONFIG = {
    "do_lower_case": False,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
    "additional_special_tokens": ["<a>"],
    "never_split": ["The"],
    "model_max_length": 128,
    "add_prefix_space": True,
    "added_tokens_decoder": {"700": {"content": "<b>", "special": True}},
    **BERT,
}
CLASSES = [
    "BertTokenizer",
    "BertTokenizerFast",
    "ElectraTokenizerFast",
    "PreTrainedTokenizerFast",
    "RobertaTokenizerFast",
    "AlbertTokenizerFast",
    "XLMRobertaTokenizer",
    "GPT2Tokenizer",
    "DebertaV2Tokenizer",
    "NoSuchTokenizer",
    "",
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10),
    st.sampled_from(
        [1 << 31, 1 << 70, 0.5, -1.0, "", "[UNK]", "[MASK]", "</s>", "the", "\ud7ff", [], {}, [["a"]], ["a"]]
    ),
    st.sampled_from(CLASSES),
    st.text(max_size=3),
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in parsed JSON something can be changed; of long parts the first few."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key in list(value)[:12]:
            found += paths_of(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 6)):
            found += paths_of(value[index], (*path, index))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any, drop: bool) -> Any:
    copy = json.loads(json.dumps(value))
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    if drop:
        del parent[path[-1]]
    else:
        parent[path[-1]] = new
    return copy


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> bytes:
    for _ in range(draw(st.integers(0, 2))):
        if paths := paths_of(value):
            value = changed(value, draw(st.sampled_from(paths)), draw(VALUES), draw(st.booleans()))
    data = json.dumps(value).encode()
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.binary(max_size=3)) + data[place + draw(st.integers(0, 5)) :]
    return data


@st.composite
def vocabularies(draw: st.DrawFn) -> bytes:
    lines = list(VOCABULARY)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, 12))
        line = draw(
            st.sampled_from(["", " ", "the", "##", "a b", "\x85", "é\r", "\ufeff[PAD]", "Ж"]) | st.text(max_size=3)
        )
        lines[place : place + draw(st.integers(0, 1))] = [line]
    end = draw(st.sampled_from(["\n", "\n", "", "\n\n", "\r\n"]))
    data = ("\n".join(lines) + end).encode("utf-8", "surrogatepass")
    return data if draw(st.integers(0, 9)) else data + draw(st.binary(max_size=4))


MADE = [json.loads(make().to_str()) for make in (*KINDS, byte_pairs, lambda: unigram(None))]


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    if draw(st.booleans()):
        files["vocab.txt"] = draw(vocabularies())
    if not files or draw(st.integers(0, 3)) == 0:
        files["tokenizer.json"] = draw(mutated(draw(st.sampled_from(MADE))))
    if draw(st.integers(0, 3)):
        config = {key: value for key, value in CONFIG.items() if draw(st.booleans())}
        if draw(st.booleans()):
            config["tokenizer_class"] = draw(st.sampled_from(CLASSES))
        files["tokenizer_config.json"] = draw(mutated(config))
    if draw(st.integers(0, 4)) == 0:
        files["special_tokens_map.json"] = draw(mutated({"mask_token": "[MASK]", "cls_token": {"content": "[CLS]"}}))
    if draw(st.integers(0, 4)) == 0:
        files["added_tokens.json"] = draw(mutated({"<b>": 1000, "zq": 20}))
    if draw(st.integers(0, 4)) == 0:
        files["config.json"] = draw(mutated({"model_type": draw(st.sampled_from(["bert", "electra", "roberta", "x"]))}))
    return files


def test_a_folder_gives_the_ids_of_transformers_or_one_line(tmp_path: Path) -> None:
    numbers = iter(range(1 << 30))

    def answer(files: dict[str, bytes]) -> str:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        try:
            tokenizer = read_tokenizer(folder, lowercase=True)
            data = tokenizer_json(tokenizer)
            ids, offsets = open_encoder(data, choose_encoder(data, TEXTS[:20]).name).encode(TEXTS)
        except UserError as error:
            return "refused" if "\n" not in str(error) else "refused in several lines"
        specials = describe(tokenizer).specials
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        special = {vocabulary[name] for name in specials} - {describe(tokenizer).unknown}
        assert not special & set(ids.tolist())
        if len(files) == 1:
            return "taken alone"
        try:
            reference = theirs(folder)
        except Exception:
            return "taken, and transformers knows no class for it"
        for row, text in enumerate(TEXTS):
            if any(name in text for name in specials):
                continue
            try:
                wanted = reference(text, add_special_tokens=False, verbose=False)["input_ids"]
            except Exception:
                continue
            if not special & set(wanted):
                assert ids[offsets[row] : offsets[row + 1]].tolist() == wanted, text
        return "taken, with the ids of transformers"

    counts = explore(folders(), answer, examples=15)
    assert sum(counts.values()) >= 15
    assert counts["refused"] < sum(counts.values())
    assert not counts["refused in several lines"]
