"""Cleaning does what its options say, and no more."""

from __future__ import annotations

import random
import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline.clean.cleaner import Cleaner, _collapse, characters_in, clean_text, is_blank, refuse_length
from data_pipeline.clean.identity import content_hash
from data_pipeline.clean.normal_form import normal_form
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


# Words, accents and every kind of white space and control character, far more often than in any text.
marks = st.sampled_from(
    [*map(chr, range(0x21)), "\x7f", "\x85", "\x84", "\x9f", "\xa0", "\u1680", *map(chr, range(0x2000, 0x200C))]
)
others = st.sampled_from(
    ["\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff", "e\u0301", "\u0301", "é", "ﬁ", "\u00a8", "a", "Ω"]
)
texts = st.lists(st.one_of(marks, others, st.text(max_size=3)), max_size=30).map("".join)


def straightforward(text: str, form: str, whitespace: bool) -> str:
    def normalized(text: str) -> str:
        return text if form == "none" else unicodedata.normalize(form, text)

    text = normalized(text)
    if whitespace:
        text = re.sub("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]", "", text)
        text = re.sub(r"\s*[\n\r\v\f\x85\u2028\u2029]\s*", "\n", text)
        text = normalized(re.sub(r"[^\S\n]+", " ", text).strip())
    return text


@pytest.mark.parametrize("form", ["NFC", "NFKC", "none"])
@pytest.mark.parametrize("whitespace", [True, False])
@settings(deadline=None)
@given(text=texts)
@example(text="a\u00a0\nb")
@example(text="a" + " " * 500 + "b" + "\n \n" * 200 + "c")
@example(text="words in prose. " * 200 + "\n\n")
def test_cleaning_is_what_its_rules_say_and_done_once(text: str, form: str, whitespace: bool) -> None:
    config = CleanConfig(unicode=form, whitespace=whitespace)
    once = clean_text(text, config)
    assert once == straightforward(text, form, whitespace)
    assert clean_text(once, config) == once


_MARKS = ["\u0301", "\u0316", "\u0f73", "\u0f71", "\uff9e", "\u0344", "\u3099", "\u0338", "\u034f", "\u0345"]


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@settings(deadline=None, max_examples=40)
@given(
    drawn=st.randoms(use_true_random=False),
    starters=st.lists(st.sampled_from(["", "a", "é", "か", "\u00b4", "x y", "\u1100"]), min_size=1, max_size=4),
    runs=st.lists(st.sampled_from([1, 30, 255, 256, 257, 700]), min_size=4, max_size=4),
)
def test_long_runs_of_marks_have_their_normal_form(
    form: str, drawn: random.Random, starters: list[str], runs: list[int]
) -> None:
    text = "".join(
        starter + "".join(drawn.choices(_MARKS, k=run)) for starter, run in zip(starters, runs, strict=False)
    )
    assert normal_form(text, form) == unicodedata.normalize(form, text)


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@pytest.mark.parametrize("unit", ["\u0301\u0316", "\u0f73\u0316", "\uff9e\u0301", "\u0301\x01\u0316"])
def test_a_run_of_marks_takes_time_in_proportion_to_its_length(form: str, unit: str) -> None:
    # Where time grows with the square of the length, these take many minutes each.
    once = clean_text("e" + unit * 250_000, CleanConfig(unicode=form))
    assert once.count("\u0316") in (0, 250_000)


def test_half_surrogate_pairs_pass_through() -> None:
    assert clean_text(" a\ud800 ", CleanConfig(unicode="none")) == "a\ud800"


def test_length_limits_drop_documents_and_say_why() -> None:
    config = CleanConfig(min_chars=3, max_chars=5)
    for text in ("x", "é", "東", "😀"):
        assert [refuse_length((text * n).encode(), n, config) for n in (0, 2, 3, 5, 6)] == [
            "too_short",
            "too_short",
            None,
            None,
            "too_long",
        ]
        assert Cleaner(config).clean(text * 3) == ((text * 3).encode(), 3, None)
    assert refuse_length(b"", 0, CleanConfig(min_chars=0)) == "too_short"


@settings(deadline=None)
@given(text=st.one_of(st.text(), st.text(st.sampled_from("\x1c\u3000\u00a0 \n\x85"))))
def test_characters_are_counted_and_blanks_seen_in_utf8(text: str) -> None:
    data = text.encode()
    assert characters_in(data) == len(text)
    assert is_blank(data) == (not text or text.isspace())


def test_the_content_hash_is_that_of_the_text() -> None:
    assert content_hash(b"a") == content_hash(b"a") != content_hash(b"b")
    assert len(content_hash("ä".encode())) == 16


PROSE = "It was the best of times, and it was the worst of times; that is what people have said to the others. " * 5


def test_a_cleaner_returns_why_a_document_is_dropped() -> None:
    pytest.importorskip("py3langid")
    config = CleanConfig(min_chars=3, max_chars=5000, filters=["symbols", "words"], language="en")
    cleaner = Cleaner(config)
    assert cleaner.reasons == ("too_short", "too_long", "filter_symbols", "filter_words", "language")
    assert cleaner.clean(PROSE + " \n ") == (PROSE.strip().encode(), len(PROSE.strip()), None)
    german = (
        "Die Würde des Menschen ist unantastbar, und sie zu achten ist Verpflichtung aller staatlichen Gewalt. " * 5
    )
    for raw, reason in (
        (" x ", "too_short"),
        (PROSE * 20, "too_long"),
        (PROSE + "# " * 80, "filter_symbols"),
        ("Too few words.", "filter_words"),
        ("# # #", "filter_symbols"),  # the first filter of the list decides
        (german, "language"),
    ):
        cleaned = cleaner.clean(raw)
        assert cleaned.reason == reason
        assert cleaned.data.decode() == clean_text(raw, config)
    assert Cleaner(CleanConfig()).reasons == ("too_short", "too_long")


@settings(deadline=None, max_examples=300)
@given(data=st.lists(st.sampled_from([b" ", b"\n", b"a", b"b" * 3000]), max_size=40).map(b"".join))
def test_runs_of_white_space_become_one_line_feed_or_one_space(data: bytes) -> None:
    def shortest(run: re.Match[bytes]) -> bytes:
        return b"\n" if b"\n" in run.group() else b" "

    assert _collapse(data) == re.sub(rb"[ \n]+", shortest, data).strip(b" \n")
