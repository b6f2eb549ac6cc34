"""Byte-level BPE as ModernBERT and GPT-2 have it: words are merged from bytes, so that no text is unknown."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from data_pipeline.config import TokenizerConfig
from data_pipeline.errors import UserError
from data_pipeline.tokenize.roles import BERT_ROLES, MASK, SPECIAL_TOKENS
from data_pipeline.tokenize.tokenizer import put_ends
from data_pipeline.tokenize.vocabulary import TrainingStatistics, without_dumps

_BYTES = 256


def train_byte_level(texts: Iterator[str], statistics: TrainingStatistics, config: TokenizerConfig) -> Tokenizer:
    """Train merges on texts as :meth:`TrainingStatistics.add_as_it_is` returns them; ``statistics`` are of all of them.

    The special tokens have BERT's names and the ids 0 to 4, then come the 256 bytes and what is merged from them.
    ``[MASK]`` takes the blank before it, as a word does that it stands for. The same text gives the same merges: bytes
    are numbered in their order, and of pairs that are equally frequent the one with the lower numbers comes first.

    Raises:
        UserError: the vocabulary is too small for the bytes.
    """
    least = len(SPECIAL_TOKENS) + _BYTES
    if config.vocab_size < least:
        raise UserError(
            f"tokenizer.vocab_size is {config.vocab_size} but the special tokens and the {_BYTES} bytes alone need "
            f"{least}: raise vocab_size"
        )
    tokenizer = Tokenizer(models.BPE())
    composed = normalizers.NFC()
    stripped = [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), composed]
    tokenizer.normalizer = normalizers.Sequence(stripped) if config.lowers else composed
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[AddedToken(name, special=True, lstrip=name == MASK) for name in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(without_dumps(texts, statistics), trainer)
    put_ends(tokenizer, BERT_ROLES)
    return tokenizer
