"""Words are runs between blanks; where a script has no blanks, its characters stand for words."""

from __future__ import annotations

import pytest

from data_pipeline.clean.filters import FILTERS
from data_pipeline.clean.words import words_of

CHINESE = "我在Google工作了3年。《红楼梦》是很好的书"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CHINESE, [*"我在", "Google", *"工作了", "3", "年。《", *"红楼", "梦》", *"是很好的书"]),
        ("東京都千代田区です", [*"東京都千代田区です"]),
        ("สวัสดีครับ", ["ส", "วั", "ส", "ดี", "ค", "รั", "บ"]),
        ("ພາສາລາວ", [*"ພາສາລາວ"]),
        ("បាន\u200bនិយាយ", ["បា", "ន", "និ", "យា", "យ"]),
        ("ကောင်းပါတယ်", ["ကော", "င်း", "ပါ", "တ", "ယ်"]),
        ("བཀྲ་ཤིས་བདེ་ལེགས།", ["བཀྲ", "ཤིས", "བདེ", "ལེགས"]),
        ("now 我在北京工作。 then", ["now", *"我在北京工", "作。", "then"]),
    ],
)
def test_text_without_blanks_is_taken_apart(text: str, expected: list[str]) -> None:
    assert words_of(text)[0] == expected
    assert words_of(text)[1] > 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain words, as ever",
        "Grüße „aus“ – Köln…",
        "한국어 문장은 띄어쓰기가 있다",
        "Привет, как дела",
        "مرحبا بالعالم اليوم",
        "हिन्दी में लिखा",
        "the word 東京 means this, and 紅樓夢 that",
        "今天 天气 很 好 。",
    ],
)
def test_text_with_blanks_is_split_at_them_only(text: str) -> None:
    assert words_of(text) == (text.split(), 0)


def test_filters_do_not_drop_text_for_its_lack_of_blanks() -> None:
    sentence = "天地玄黄，宇宙洪荒；日月盈昃，辰宿列张。"
    text = "".join(sentence[number % 20 :] + sentence for number in range(5))
    for name in ("words", "word_length", "letters", "symbols"):
        assert FILTERS[name](text), name
    assert not FILTERS["words"](sentence)
    assert not FILTERS["letters"]("日月盈昃辰宿列张 " + "12。 " * 20)
    assert not FILTERS["symbols"](text[:40] + "#" * 40)
    # Words between blanks still count where a text has both.
    assert not FILTERS["word_length"]("日月盈昃辰宿列张 " + "a b " * 40)
    assert FILTERS["word_length"]("日月盈昃辰宿列张 " + "some words " * 40)
