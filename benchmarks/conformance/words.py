"""A tokenizer over the vocabulary of the checks, for trainers that ask one for the special tokens."""

from __future__ import annotations

import functools

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tests.conformance.trainer import VOCABULARY

ROLES = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Words are numbers; the special tokens have the ids of the checks, and there is none for what is unknown."""
    words = {word: number for number, word in enumerate([*ROLES, *map(str, range(len(ROLES), VOCABULARY))])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="4")),
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
