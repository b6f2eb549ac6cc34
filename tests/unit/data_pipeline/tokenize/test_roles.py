"""Special tokens may have any names: ids stay those of transformers, and none of them comes from a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_pipeline.errors import UserError
from data_pipeline.tokenize import existing
from data_pipeline.tokenize.description import describe
from data_pipeline.tokenize.roles import NOTHING, Roles
from data_pipeline.tokenize.tokenizer import load_with_roles, save_tokenizer, text_encoder, tokenizer_fingerprint

TEXT = ["the river of the café", "The light, the stone; don't", "東京 the end\n of  the river"] * 5
ROBERTA = Roles("<pad>", "<s>", "</s>", "<mask>", "<unk>")
OWN = Roles("<|pad|>", "<|begin|>", "<|begin|>", "<|gap|>", None)
XLM = Roles("<pad>", "<s>", "</s>", "<mask>", "<unk>")


def ends(tokenizer: Tokenizer, roles: Roles) -> None:
    """Have the tokenizer put the start and the end around a text."""
    ids = [(name, tokenizer.token_to_id(name)) for name in dict.fromkeys((roles.cls, roles.sep))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{roles.cls} $A {roles.sep}", special_tokens=ids)


def byte_level(roles: Roles) -> Tokenizer:
    """As GPT-2, RoBERTa and ModernBERT have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens([*roles.names(), AddedToken(roles.mask, lstrip=True, special=True)])
    ends(tokenizer, roles)
    return tokenizer


def unigram(roles: Roles) -> Tokenizer:
    """As XLM-RoBERTa has it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    names = [*roles.names()]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=names, unk_token=roles.unk, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens(names)
    ends(tokenizer, roles)
    return tokenizer


def save_folder(folder: Path, tokenizer: Tokenizer, roles: Roles) -> Any:
    """The folder of a tokenizer as transformers saves it; returns what transformers loads from it."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles.named()).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


KINDS = [(byte_level, ROBERTA), (byte_level, OWN), (unigram, XLM)]


@pytest.mark.parametrize(("make", "roles"), KINDS)
def test_a_folder_with_other_names_gives_the_ids_of_transformers_through_a_store(
    make: Callable[[Roles], Tokenizer], roles: Roles, tmp_path: Path
) -> None:
    theirs = save_folder(tmp_path / "given", make(roles), roles)
    lines: list[str] = []
    tokenizer, found = existing.read_tokenizer(tmp_path / "given", True, lines.append)
    assert (found, lines) == (roles, [])
    assert describe(tokenizer).unknown == (NOTHING if make is byte_level else tokenizer.token_to_id("<unk>"))
    entry = save_tokenizer(tmp_path / "store", tokenizer, found)
    ours, again = load_with_roles(tmp_path / "store")
    assert again == roles
    assert tokenizer_fingerprint(ours) == entry.fingerprint
    encoder = text_encoder(ours)
    vocabulary = ours.get_vocab(with_added_tokens=True)
    special = {vocabulary[name] for name in roles.names()} - {vocabulary.get(roles.unk or "")}

    @settings(max_examples=60, deadline=None)
    @given(st.text() | st.lists(st.sampled_from(["the", " river", "\n", "é", "東京", "don't", "  "])).map("".join))
    @example(" ".join(roles.names()))
    @example("".join(f"the {name}end" for name in roles.names()))
    def same(text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError:
            return
        ids = encoder.encode(text, add_special_tokens=False).ids
        assert not special & set(ids)
        if not any(name in text for name in roles.names()):
            assert ids == theirs(text, add_special_tokens=False)["input_ids"]

    same()
    # The whole folder, as an export has it, and the blank that the mask takes.
    stored = type(theirs).from_pretrained(tmp_path / "store" / "tokenizer", local_files_only=True)
    for text in ("the river", f"the {roles.mask} river"):
        assert stored(text)["input_ids"] == theirs(text)["input_ids"]
    assert stored.mask_token == roles.mask


def test_a_bare_file_with_known_names_is_taken_and_others_are_asked_for(tmp_path: Path) -> None:
    byte_level(ROBERTA).save(str(tmp_path / "roberta.json"))
    assert existing.read_tokenizer(tmp_path / "roberta.json", True)[1] == ROBERTA
    byte_level(OWN).save(str(tmp_path / "own.json"))
    with pytest.raises(UserError, match=r"own\.json lacks \[PAD\], \[CLS\], \[SEP\], \[MASK\].* name it in") as caught:
        existing.read_tokenizer(tmp_path / "own.json", True)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_a_role_is_refused_in_one_line(tmp_path: Path) -> None:
    save_folder(tmp_path / "given", byte_level(ROBERTA), ROBERTA)
    config = json.loads((tmp_path / "given" / "tokenizer_config.json").read_text())
    raw = json.loads((tmp_path / "given" / "tokenizer.json").read_text())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] != "<mask>"]
    (tmp_path / "given" / "tokenizer.json").write_text(json.dumps(raw))
    (tmp_path / "given" / "tokenizer_config.json").write_text(
        json.dumps({name: value for name, value in config.items() if name != "mask_token"})
    )
    with pytest.raises(UserError, match=r"given lacks \[MASK\].*it names </s>, <pad>, <s>, <unk>") as caught:
        existing.read_tokenizer(tmp_path / "given", True)
    assert "\n" not in str(caught.value)


def test_what_is_said_of_the_ends_of_a_text(tmp_path: Path) -> None:
    tokenizer = byte_level(ROBERTA)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    lines: list[str] = []
    existing.read_tokenizer(tmp_path / "tokenizer.json", True, lines.append)
    assert len(lines) == 1
    assert "does not put <s> and </s> around a text" in lines[0]
