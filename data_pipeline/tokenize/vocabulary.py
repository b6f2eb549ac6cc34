"""Training of a WordPiece vocabulary that comes out the same every time."""

from __future__ import annotations

import collections
import dataclasses
import heapq
from collections.abc import Iterator, Mapping

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from data_pipeline.config import TokenizerConfig
from data_pipeline.errors import UserError
from data_pipeline.tokenize.tokenizer import SPECIAL_TOKENS, UNK, wordpiece_tokenizer

_PREFIX = "##"


def normalized(text: str, lowercase: bool) -> str:
    """Text as BERT's normalizer leaves it."""
    return str(normalizers.BertNormalizer(lowercase=lowercase).normalize_str(text))


@dataclasses.dataclass
class CharacterStatistics:
    """What training must know of the characters: how often each occurs, and which occur inside words."""

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    inner: set[str] = dataclasses.field(default_factory=set)

    def add(self, text: str, distinct_words: set[str]) -> None:
        """Count a normalized text; ``distinct_words`` collects what stands between blanks."""
        self.counts.update(text)
        distinct_words.update(text.split())

    def find_inner(self, distinct_words: set[str]) -> None:
        """Note the characters that follow another one once words are split at punctuation."""
        for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(" ".join(distinct_words)):
            self.inner.update(word[1:])


def choose_alphabet(counts: Mapping[str, int], size: int, min_frequency: int) -> list[str]:
    """The ``size`` most frequent characters (ties: lower code point first), in code point order."""
    usable = {
        character: count for character, count in counts.items() if count >= min_frequency and not character.isspace()
    }
    best = heapq.nsmallest(size, usable, key=lambda character: (-usable[character], character))
    return sorted(best)


def train_tokenizer(texts: Iterator[str], characters: CharacterStatistics, config: TokenizerConfig) -> Tokenizer:
    """Train a vocabulary on normalized texts.

    Args:
        texts: texts as :func:`normalized` gives them.
        characters: statistics of the same texts.

    Raises:
        UserError: the vocabulary is too small for the alphabet.
    """
    alphabet = choose_alphabet(characters.counts, config.alphabet, config.min_frequency)
    # The library numbers word-inner characters in the random order of a hash map, and breaks ties between
    # equally frequent merges by those numbers. Naming them as special tokens fixes the numbers beforehand;
    # they are plain entries again in the tokenizer made from the resulting vocabulary.
    inner = [_PREFIX + character for character in alphabet if character in characters.inner]
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
    return wordpiece_tokenizer(tokenizer.get_vocab(with_added_tokens=True), config.lowercase)
