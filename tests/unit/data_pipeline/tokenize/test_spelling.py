"""Pieces of words look alike to people, whatever mark a vocabulary has."""

from __future__ import annotations

import pytest

from data_pipeline.tokenize.roles import BERT_ROLES
from data_pipeline.tokenize.spelling import Spelling
from data_pipeline.tokenize.tokenizer import wordpiece_tokenizer
from tests.unit.data_pipeline.tokenize.test_existing import word_level
from tests.unit.data_pipeline.tokenize.test_roles import ROBERTA, byte_level, unigram


def test_word_pieces_and_whole_words_stay_as_they_are() -> None:
    entries = [*BERT_ROLES.names(), "the", "##s", "##"]
    spelling = Spelling(wordpiece_tokenizer({entry: n for n, entry in enumerate(entries)}, True))
    assert spelling.kind == "WordPiece"
    assert [spelling.shown(entry) for entry in entries] == entries
    assert Spelling(word_level()).shown("the") == "the"


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("Ġriver", "river"),
        ("er", "##er"),
        ("cafÃ©", "##café"),
        ("Ġ", "Ġ"),
        ("<mask>", "<mask>"),
        (",", "##,"),
    ],
)
def test_bytes_are_characters_and_a_blank_starts_a_word(token: str, shown: str) -> None:
    spelling = Spelling(byte_level(ROBERTA))
    assert spelling.kind == "byte-level BPE"
    assert spelling.shown(token) == shown


def test_pieces_of_unigram_start_a_word_with_their_mark() -> None:
    spelling = Spelling(unigram(ROBERTA))
    assert spelling.kind == "Unigram"
    tokens = ["▁the", "the", "▁", "<s>"]
    assert [spelling.shown(token) for token in tokens] == ["the", "##the", "▁", "<s>"]
