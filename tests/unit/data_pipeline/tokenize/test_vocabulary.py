"""A vocabulary is made of words that the tokenizer would take, and covers the characters of its text."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Sequence

import pytest

from data_pipeline.config import TokenizerConfig
from data_pipeline.tokenize.roles import SPECIAL_TOKENS
from data_pipeline.tokenize.tokenizer import text_encoder
from data_pipeline.tokenize.vocabulary import TrainingStatistics, choose_alphabet, normalized, train_tokenizer
from tests.unit.data_pipeline.conftest import make_texts


def trained(texts: Sequence[str], **settings: int) -> tuple[list[str], TrainingStatistics]:
    """The entries in order of their ids, and the statistics."""
    statistics = TrainingStatistics()
    words: set[str] = set()
    kept = [statistics.add(normalized(text, True), words) for text in texts]
    statistics.find_inner(words)
    again = TrainingStatistics()
    again.add_record(statistics.record())
    assert again == statistics
    tokenizer = train_tokenizer(iter(kept), statistics, TokenizerConfig(**settings))
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    return sorted(vocabulary, key=vocabulary.__getitem__), statistics


def noise(number: int, kind: str, size: int) -> str:
    data = b"".join(hashlib.sha256(f"{number} {part}".encode()).digest() for part in range(1 + size // 32))
    text = data.hex()
    if kind == "HEX":
        text = text.upper()
    elif kind == "base32":
        text = base64.b32encode(data).decode()
    elif kind == "base64":
        text = base64.b64encode(data).decode()
    elif kind == "uuid":
        text = "-".join(text[start : start + 4] for start in range(0, len(text), 4))
    elif kind == "digits":
        text = str(int.from_bytes(data, "big"))
    elif kind == "letters":
        text = text.translate(str.maketrans("0123456789", "ghijklmnop"))
    return text[:size]


TEXTS = make_texts(300)


@pytest.mark.parametrize("size", [101, 200_000, 1_000_000])
@pytest.mark.parametrize("kind", ["base32", "letters"])
def test_a_long_word_changes_nothing_and_is_reported(kind: str, size: int) -> None:
    # Training on the longest of these would not end within the time of a test.
    word = noise(0, kind, size) if kind == "base32" else "".join(random.Random(0).choices("abcdefgh", k=size))
    found, statistics = trained([*TEXTS, f"before {word} after", "before after"], vocab_size=300)
    expected, _ = trained([*TEXTS, "before  after", "before after"], vocab_size=300)
    assert found == expected
    (line,) = statistics.report()
    assert line.startswith("vocabulary: 1 word of more than 100 characters not trained on, such as '")
    assert word[:20].lower() in line


@pytest.mark.parametrize("kind", ["hex", "HEX", "base32", "base64", "uuid", "digits", "letters"])
@pytest.mark.parametrize("size", [40, 100])
def test_dumps_do_not_fill_the_vocabulary(kind: str, size: int) -> None:
    if (kind, size) == ("letters", 40):
        return
    dumps = [f"The checksum is {noise(number, kind, size)} here." for number in range(300)]
    found, statistics = trained([*TEXTS, *dumps], vocab_size=500)
    without, _ = trained([*TEXTS, *["The checksum is here."] * 300], vocab_size=500)
    # At most the single characters, and the ends of base64 whose few digits make it look like a path.
    assert len(set(found) - set(without)) < 40
    (line,) = statistics.report()
    assert "of hexadecimal, base64 or the like (" in line
    assert "% of the characters) not trained on, such as '" in line


def test_a_few_dumps_are_trained_on_as_ever() -> None:
    texts = [*TEXTS * 4, f"The checksum is {noise(1, 'hex', 64)}."]
    found, statistics = trained(texts, vocab_size=500)
    assert statistics.dumps.words == 1
    assert not statistics.report()
    assert found != trained(TEXTS * 4, vocab_size=500)[0]


def test_words_of_other_scripts_and_long_words_are_trained_on() -> None:
    words = ["donaudampfschifffahrtsgesellschaftskapitän", "สวัสดีครับผมชื่อสมชายเป็นคนไทยในปี2024", "x" * 50]
    found, statistics = trained([" ".join(words)] * 5 + TEXTS * 20, vocab_size=2000)
    assert statistics.dumps.words == 0
    assert not statistics.report()
    assert any(len(entry) > 20 for entry in found)


def chinese(count: int, distinct: int, seed: int) -> list[str]:
    """Texts whose characters follow Zipf's law."""
    drawn = random.Random(seed)
    characters = [chr(0x4E00 + number) for number in range(distinct)]
    weights = [1 / (rank + 10) for rank in range(distinct)]
    return ["".join(drawn.choices(characters, weights, k=400)) + "。" for _ in range(count)]


@pytest.mark.parametrize(("vocabulary", "most"), [(30_522, 0.002), (4000, 0.002), (2500, 0.05)])
def test_text_of_many_characters_is_covered(vocabulary: int, most: float) -> None:
    texts = chinese(200, 3500, 0)
    statistics = TrainingStatistics()
    words: set[str] = set()
    kept = [statistics.add(normalized(text, True), words) for text in texts]
    statistics.find_inner(words)
    tokenizer = text_encoder(train_tokenizer(iter(kept), statistics, TokenizerConfig(vocab_size=vocabulary)))
    ids = [index for row in tokenizer.encode_batch(texts, add_special_tokens=False) for index in row.ids]
    assert ids.count(1) / len(ids) <= most
    assert tokenizer.get_vocab_size() <= vocabulary


def test_an_alphabet_that_is_chosen_is_kept_to() -> None:
    found, _ = trained(chinese(100, 3500, 0), vocab_size=8000, alphabet=200)
    assert len(found) == len(SPECIAL_TOKENS) + 200


def test_text_whose_characters_fit_keeps_its_vocabulary() -> None:
    # A thousand characters cover all but 0.05 % of this text, and words fill the rest of the vocabulary.
    rare = "".join(chr(0x4E00 + number) * 2 for number in range(1500))
    statistics = TrainingStatistics()
    words: set[str] = set()
    texts = [statistics.add(normalized(text, True), words) for text in [*TEXTS, rare]]
    statistics.find_inner(words)
    for character in "etaoin":
        statistics.counts[character] += 1_000_000
    assert len(choose_alphabet(statistics, TokenizerConfig())) == 1000
    found = train_tokenizer(iter(texts), statistics, TokenizerConfig(vocab_size=1100)).get_vocab()
    assert len([entry for entry in found if len(entry) == 1]) == 1000
