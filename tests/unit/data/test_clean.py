"""Cleaning does what its options say, and no more."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.clean import clean_text, content_hash, refuse_length
from data_pipeline.config import CleanConfig


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a \t b  \r\n\r\n\n c ", "a b\nc"),
        ("zero\x00 and \x1bbell\x07", "zero and bell"),
        ("\ufeffmark", "mark"),
        ("e\u0301", "é"),
        ("no\u00a0break\u2028line", "no break\nline"),
        ("\n\n", ""),
    ],
)
def test_white_space_and_controls_are_normalized(raw: str, clean: str) -> None:
    assert clean_text(raw, CleanConfig()) == clean


def test_unicode_forms_are_a_choice() -> None:
    assert clean_text("ﬁne ½", CleanConfig(unicode="NFKC")) == "fine 1⁄2"
    assert clean_text("ﬁne ½", CleanConfig(unicode="NFC")) == "ﬁne ½"
    assert clean_text("e\u0301", CleanConfig(unicode="none")) == "e\u0301"
    assert clean_text(" as  it\n\nis ", CleanConfig(unicode="none", whitespace=False)) == " as  it\n\nis "


@given(text=st.text(), form=st.sampled_from(["NFC", "NFKC", "none"]), whitespace=st.booleans())
def test_cleaning_twice_changes_nothing(text: str, form: str, whitespace: bool) -> None:
    config = CleanConfig(unicode=form, whitespace=whitespace)
    once = clean_text(text, config)
    assert clean_text(once, config) == once
    if form != "none":
        assert unicodedata.is_normalized(form, once)


def test_length_limits_drop_documents_and_say_why() -> None:
    config = CleanConfig(min_chars=3, max_chars=5)
    assert [refuse_length("x" * n, config) for n in (0, 2, 3, 5, 6)] == [
        "too_short",
        "too_short",
        None,
        None,
        "too_long",
    ]
    assert refuse_length("", CleanConfig(min_chars=0)) == "too_short"


def test_the_content_hash_is_that_of_the_text() -> None:
    assert content_hash("a") == content_hash("a") != content_hash("b")
    assert len(content_hash("ä")) == 16
