"""Pairs without labels: wrong in one place only, the same everywhere, and no better than chance without context."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from electra_scale.data.noise import generator_key
from electra_scale.data.pairs import KINDS, Pair, make_pairs, sentences, share_preferred

PLAIN = "The old keeper of the light walked slowly down to the harbour"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{PLAIN}.", [f"{PLAIN}."]),
        (f"{PLAIN}! {PLAIN}?", [f"{PLAIN}!", f"{PLAIN}?"]),
        # A full stop inside a number or an abbreviation, after a title or an initial, ends nothing.
        (f"{PLAIN} with Mr. J. Smith at 3.5 miles an hour.", [f"{PLAIN} with Mr. J. Smith at 3.5 miles an hour."]),
        (f"{PLAIN} (at noon) of St. Mary's.\nA heading\n{PLAIN}.", [f"{PLAIN} (at noon) of St. Mary's.", f"{PLAIN}."]),
        (f"{PLAIN}, broken\nover lines.", []),
        (f'"{PLAIN}." He said so.', []),
        (f"{PLAIN} [UNK] said.", []),
        ("Too short to be of any use.", []),
        (" ".join([PLAIN] * 3) + ".", []),
        (f"{PLAIN} and no end", []),
        ("", []),
    ],
)
def test_sentences_are_plain_whole_and_of_8_to_30_words(text: str, found: list[str]) -> None:
    assert sentences(text) == found


def zipf_documents(seed: int = 0, number: int = 1500) -> list[str]:
    """Documents of one sentence of made-up words, some of which are a thousand times as frequent as others."""
    draw = random.Random(seed)
    syllables = ("ba", "ke", "lo", "mi", "nu", "ra", "so", "ti")
    words = [first + second + third for first in syllables for second in syllables for third in syllables]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    return [" ".join(draw.choices(words, weights, k=draw.randint(9, 20))) + "." for _ in range(number)]


def test_copies_are_wrong_in_one_place() -> None:
    documents = zipf_documents()
    counts = Counter(word for text in documents for word in text[:-1].split())
    pairs = make_pairs(documents)
    assert Counter(pair.kind for pair in pairs) == dict.fromkeys(KINDS, len(documents))
    for pair in pairs:
        before, after = pair.original[:-1].split(), pair.changed[:-1].split()
        places = [place for place, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]
        if pair.kind == "swapped":
            first, second = places
            assert second == first + 1
            assert first > 0
            assert before[first] == after[second]
            assert before[second] == after[first]
        else:
            (place,) = places
            assert counts[before[place]].bit_length() == counts[after[place]].bit_length()


def test_what_knows_nothing_but_words_is_at_chance() -> None:
    pairs = make_pairs(zipf_documents())

    def score(sentence: str) -> float:
        """Any function of single words, here one that likes some of them much better than others."""
        return sum(generator_key(word) % 1000 for word in sentence[:-1].split())

    for kind in KINDS:
        own = [pair for pair in pairs if pair.kind == kind]
        share = share_preferred([score(pair.original) for pair in own], [score(pair.changed) for pair in own])
        assert abs(share.value - 0.5) <= 3 * share.error, kind


def test_pairs_follow_from_the_seed_and_the_text_alone() -> None:
    documents = zipf_documents(number=300)
    pairs = make_pairs(documents)
    assert make_pairs([" ".join(reversed(documents)), *documents]) == make_pairs([*documents, " ".join(documents)])
    assert make_pairs(reversed(documents)) == pairs
    assert make_pairs(documents, most=7) == [*pairs[:7], *[pair for pair in pairs if pair.kind == "replaced"][:7]]
    assert make_pairs(documents, seed=1)[:50] != pairs[:50]


def test_a_capital_letter_gives_nothing_away() -> None:
    text = f"{PLAIN}. Yesterday Anna saw the small boat of her brother Peter again."
    for seed in range(40):
        for pair in make_pairs([text], seed):
            before, after = pair.original.split(), pair.changed.split()
            if pair.kind == "swapped":
                assert after[0] == before[0]
            else:
                assert [word.istitle() for word in after] == [word.istitle() for word in before]


def test_the_frequency_of_a_word_is_that_in_all_text_that_is_counted() -> None:
    text = "the small boat of the old man left after the long winter was over."
    # Each word occurs once in the sentence; in the other text "boat" and "ship" are as frequent as each other.
    counted = ["boat ship " * 9, " ".join(set(text[:-1].split()) - {"boat"})]
    classes = {pair.changed for seed in range(60) for pair in make_pairs([text], seed, counted=counted)}
    assert any("small ship of" in changed for changed in classes)
    assert not any("ship" in changed and "boat" in changed for changed in classes)
    assert not any("ship" in pair.changed for seed in range(60) for pair in make_pairs([text], seed))


def test_a_sentence_that_cannot_be_changed_gives_no_pair() -> None:
    assert make_pairs(["A a a a a a a a a."]) == []
    assert make_pairs(["one, two, three, four, five, six, seven, eight."]) == [
        pair for pair in make_pairs(["one, two, three, four, five, six, seven, eight."]) if pair.kind == "replaced"
    ]
    assert make_pairs([]) == []


def test_the_share_counts_ties_a_half_and_has_the_error_of_a_mean() -> None:
    share = share_preferred([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 4.0, -1.0])
    assert (share.value, share.count) == (0.625, 4)
    assert share.error == pytest.approx(math.sqrt(((1 - 0.625) ** 2 * 2 + 0.125**2 + 0.625**2) / 4 / 4))
    # The figures that are quoted for 541 pairs at 0.906.
    won = round(0.906 * 541)
    assert share_preferred([1.0] * 541, [0.0] * won + [2.0] * (541 - won)).error == pytest.approx(0.0125, abs=1e-4)


def test_a_score_that_is_not_a_number_gives_no_share() -> None:
    assert math.isnan(share_preferred([], []).value)
    assert math.isnan(share_preferred([1.0, math.nan], [0.0, 0.0]).value)
    assert Pair("swapped", "a b.", "b a.") in {Pair("swapped", "a b.", "b a.")}
