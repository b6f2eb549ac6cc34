"""Training of a WordPiece vocabulary that comes out the same every time."""

from __future__ import annotations

import collections
import dataclasses
import heapq
import re
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from data_pipeline.config import TokenizerConfig
from data_pipeline.errors import UserError
from data_pipeline.progress import counted
from data_pipeline.tokenize.roles import SPECIAL_TOKENS, UNK
from data_pipeline.tokenize.tokenizer import MAX_WORD, wordpiece_tokenizer

_PREFIX = "##"
# Numbers, hashes and encoded bytes: ASCII of this length with a digit, or longer than any word.
_DUMP_WITH_DIGIT, _DUMP = 21, 51
# What stands between blanks, too, if it is encoded bytes in spite of its punctuation; paths have fewer digits.
_ENCODED = re.compile(rf"[a-z0-9+/=_:-]{{{_DUMP_WITH_DIGIT},}}", re.IGNORECASE)
_CHARACTERS_PER_DIGIT = 16
# Above this share of the characters, dumps would take more than a few entries of the vocabulary.
_MOST_DUMPS = 0.001
_RUN = re.compile(rf"\S{{{_DUMP_WITH_DIGIT},}}")
_DIGIT = re.compile("[0-9]")
_SHOWN = 40
# The share of the characters that the alphabet covers, unless its size is chosen.
_COVERAGE = 0.9995


def normalized(text: str, lowercase: bool) -> str:
    """Text as BERT's normalizer leaves it."""
    return str(normalizers.BertNormalizer(lowercase=lowercase).normalize_str(text))


def _long(run: str, words: list[str]) -> list[str]:
    return [word for word in words if len(word) > MAX_WORD]


def _dumps(run: str, words: list[str]) -> list[str]:
    run = run.strip(string.punctuation)
    if _ENCODED.fullmatch(run) and _CHARACTERS_PER_DIGIT * len(_DIGIT.findall(run)) >= len(run):
        return [word for word in words if word.isalnum()]
    return [
        word
        for word in words
        if len(word) >= _DUMP_WITH_DIGIT and word.isascii() and (len(word) >= _DUMP or _DIGIT.search(word))
    ]


def _without(text: str, unwanted: Callable[[str, list[str]], list[str]]) -> tuple[str, list[str]]:
    """The text without the words that ``unwanted`` chooses of each long run between blanks, and these words."""
    removed: list[str] = []

    def kept(found: re.Match[str]) -> str:
        run = found.group()
        words = [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(run)]
        going = unwanted(run, words)
        if not going:
            return run
        removed.extend(going)
        dropped = set(going)
        return " ".join(word for word in words if word not in dropped)

    return _RUN.sub(kept, text), removed


@dataclasses.dataclass
class Excluded:
    """Words that a vocabulary is not trained on: how many, their characters, and one of them."""

    words: int = 0
    characters: int = 0
    example: str = ""

    def add(self, words: int, characters: int, example: str) -> None:
        self.words += words
        self.characters += characters
        self.example = self.example or example

    def add_words(self, words: list[str]) -> None:
        if words:
            self.add(len(words), sum(map(len, words)), f"{words[0][:_SHOWN]}...")


@dataclasses.dataclass
class TrainingStatistics:
    """What training must know of its text: how often each character occurs, which occur inside words, and the words
    that it leaves out. Words above the tokenizer's limit are always left out; dumps (hexadecimal, base64) where they
    are frequent enough to fill the vocabulary."""

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    inner: set[str] = dataclasses.field(default_factory=set)
    long: Excluded = dataclasses.field(default_factory=Excluded)
    dumps: Excluded = dataclasses.field(default_factory=Excluded)

    def add(self, text: str, distinct_words: set[str]) -> str:
        """Count a normalized text and return what of it can be trained on.

        ``distinct_words`` collects what stands between blanks.
        """
        text, long = _without(text, _long)
        self.long.add_words(long)
        self.dumps.add_words(_without(text, _dumps)[1])
        self.counts.update(text)
        distinct_words.update(text.split())
        return text

    def add_as_it_is(self, text: str) -> str:
        """Count a text whose words a tokenizer of bytes takes whatever their length, and return it."""
        self.dumps.add_words(_without(text, _dumps)[1])
        self.counts.update(text)
        return text

    def record(self) -> dict[str, Any]:
        """The statistics of one task as JSON."""
        long, dumps = (dataclasses.astuple(excluded) for excluded in (self.long, self.dumps))
        return {"counts": self.counts, "inner": "".join(sorted(self.inner)), "long": long, "dumps": dumps}

    def add_record(self, record: Mapping[str, Any]) -> None:
        """Add what another task recorded."""
        self.counts.update(record["counts"])
        self.inner.update(record["inner"])
        for name, excluded in (("long", self.long), ("dumps", self.dumps)):
            if name in record:
                excluded.add(*record[name])

    @property
    def many_dumps(self) -> bool:
        return self.dumps.characters > _MOST_DUMPS * sum(self.counts.values())

    def report(self) -> list[str]:
        """A line for each kind of words that training leaves out."""
        lines = []
        if self.long.words:
            lines.append(
                f"vocabulary: {counted(self.long.words, 'word')} of more than {MAX_WORD} characters "
                f"not trained on, such as {self.long.example!r}: the tokenizer makes them {UNK}"
            )
        if self.many_dumps:
            share = 100 * self.dumps.characters / sum(self.counts.values())
            lines.append(
                f"vocabulary: {counted(self.dumps.words, 'word')} of hexadecimal, base64 or the like ({share:.1f} % of "
                f"the characters) not trained on, such as {self.dumps.example!r}"
            )
        return lines

    def find_inner(self, distinct_words: set[str]) -> None:
        """Note the characters that follow another one once words are split at punctuation."""
        for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(" ".join(distinct_words)):
            self.inner.update(word[1:])


def _frequent(counts: Mapping[str, int], min_frequency: int) -> Callable[[int], list[str]]:
    """A function that returns the n most frequent characters (ties: lower code point first)."""
    usable = {
        character: count for character, count in counts.items() if count >= min_frequency and not character.isspace()
    }
    return lambda number: heapq.nsmallest(number, usable, key=lambda character: (-usable[character], character))


def choose_alphabet(statistics: TrainingStatistics, config: TokenizerConfig) -> list[str]:
    """The characters that get entries of their own, in code point order.

    The ``config.alphabet`` most frequent ones. Where that is left at its default, so many more that all but 0.05 % of
    the text is covered, as far as they take no more than half of the vocabulary.
    """
    counts = statistics.counts
    frequent = _frequent(counts, config.min_frequency)
    if config.alphabet != TokenizerConfig.alphabet:
        return sorted(frequent(config.alphabet))
    characters = frequent(len(counts))
    total = sum(count for character, count in counts.items() if not character.isspace())
    covered, entries = 0, len(SPECIAL_TOKENS)
    for number, character in enumerate(characters):
        covered += counts[character]
        entries += 1 + (character in statistics.inner)
        if number >= config.alphabet and (
            2 * entries > config.vocab_size or covered - counts[character] >= _COVERAGE * total
        ):
            return sorted(characters[:number])
    return sorted(characters)


def without_dumps(texts: Iterator[str], statistics: TrainingStatistics) -> Iterator[str]:
    """The texts, without hexadecimal, base64 and the like where these are many."""
    return (_without(text, _dumps)[0] for text in texts) if statistics.many_dumps else texts


def train_tokenizer(texts: Iterator[str], statistics: TrainingStatistics, config: TokenizerConfig) -> Tokenizer:
    """Train a vocabulary on texts as :meth:`TrainingStatistics.add` returns them; ``statistics`` are of all of them.

    Raises:
        UserError: the vocabulary is too small for the alphabet.
    """
    texts = without_dumps(texts, statistics)
    alphabet = choose_alphabet(statistics, config)
    # The library numbers word-inner characters in the random order of a hash map, and breaks ties between
    # equally frequent merges by those numbers. Naming them as special tokens fixes the numbers beforehand;
    # they are plain entries again in the tokenizer made from the resulting vocabulary.
    inner = [_PREFIX + character for character in alphabet if character in statistics.inner]
    base = len(SPECIAL_TOKENS) + len(alphabet) + len(inner)
    if base > config.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size is {config.vocab_size} but the special tokens and {len(alphabet)} "
            f"characters alone need {base}: raise vocab_size or lower tokenizer.alphabet"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*SPECIAL_TOKENS, *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=_PREFIX,
        show_progress=False,
    )
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, trainer)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if config.alphabet == TokenizerConfig.alphabet:
        _fill(vocabulary, statistics, config)
    return wordpiece_tokenizer(vocabulary, config.lowers)


def _fill(vocabulary: dict[str, int], statistics: TrainingStatistics, config: TokenizerConfig) -> None:
    """Give entries that the text has no use for to further characters: where each is a word, nothing is merged."""
    for character in _frequent(statistics.counts, config.min_frequency)(len(statistics.counts)):
        entries = [character, _PREFIX + character] if character in statistics.inner else [character]
        if character not in vocabulary and len(vocabulary) + len(entries) <= config.vocab_size:
            vocabulary.update({entry: len(vocabulary) + number for number, entry in enumerate(entries)})
