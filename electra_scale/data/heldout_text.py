"""The text of a store again, from its token ids: that of its held-out split, and some of what is trained on."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from data_pipeline.errors import UserError
from data_pipeline.store.manifest import ShardEntry
from data_pipeline.tokenize.tokenizer import load_tokenizer, text_encoder
from electra_scale.data.noise import generator_key, hashes
from electra_scale.data.store import Store

MOST_TOKENS = 1_000_000
"""Tokens that are read: held-out text of any length gives thousands of sentences within a second or two."""

_MOST_SHARDS = 64
"""Shards that they are read from, each of which may have to be fetched from a bucket."""

_COUNTED_TOKENS, _COUNTED_SHARDS = 2_000_000, 4
"""Tokens to train on whose words are counted, and the shards that they are read from."""

_CHECKED_TOKENS = 5_000
_LEAST_SAME = 0.9
"""Of this many tokens, the share that must come out the same when the text is encoded again."""

_JOINED = (
    (re.compile(r" (['’]) (s|t|d|m|re|ve|ll)\b"), r"\1\2"),
    (re.compile(r"(?<=\w) ([-‐‑]) (?=\w)"), r"\1"),
    (re.compile(r" ([.,;:!?%)\]}])"), r"\1"),
    (re.compile(r"([(\[{]) "), r"\1"),
    (re.compile(r"(?<=\d)([.,]) (?=\d)"), r"\1"),
)
"""White space that a splitting at punctuation has put into a text, and what stands there without it."""


class UnreadableText(UserError):
    """The tokenizer's ids can't be turned into text again."""


def heldout_documents(store: Store, most_tokens: int = MOST_TOKENS, seed: int = 0) -> list[str]:
    """Documents of the held-out split as text, up to about ``most_tokens`` from anywhere in it.

    Where the split is no larger, they are all of it. Case, accents and white space are as the tokenizer left them.

    Raises:
        UnreadableText: the tokenizer's ids can't be turned into text again.
        UserError: what :meth:`Store.open` raises.
    """
    entries = store.manifest.split("heldout")
    if sum(entry.tokens for entry in entries) > most_tokens:
        entries = _some(entries, _MOST_SHARDS, seed)
    documents = list(_ids(store, entries, most_tokens, seed))
    tokenizer = load_tokenizer(store.tokenizer_dir.parent)
    decode = text_of(tokenizer)
    texts = [decode(ids) for ids in documents]
    _check(store, tokenizer, documents, texts)
    return texts


def training_documents(store: Store, seed: int = 0) -> Iterator[str]:
    """Some of the text that a store is trained on, by which words are counted: 2 M tokens from up to four shards.

    Raises:
        UserError: what :meth:`Store.open` raises.
    """
    decode = text_of(load_tokenizer(store.tokenizer_dir.parent))
    entries = _some(store.manifest.split("train"), _COUNTED_SHARDS, seed)
    for ids in _ids(store, entries, _COUNTED_TOKENS, seed):
        yield decode(ids)


def text_of(tokenizer: Tokenizer) -> Callable[[NDArray[Any]], str]:
    """What turns token ids (n,) into text.

    Of WordPiece, whose own decoder changes words ("do not" becomes "don't"), pieces are put together and the white
    space around punctuation is that of plain English; both are encoded to the same ids.
    """
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] != "WordPiece":
        return lambda ids: str(tokenizer.decode(ids.tolist(), skip_special_tokens=False))
    prefix = f" {model['continuing_subword_prefix']}"
    names = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}

    def decode(ids: NDArray[Any]) -> str:
        text = " ".join([names.get(index, "") for index in ids.tolist()]).replace(prefix, "")
        for pattern, instead in _JOINED:
            text = pattern.sub(instead, text)
        return text

    return decode


def _some(entries: list[ShardEntry], most: int, seed: int) -> list[ShardEntry]:
    """At most so many shards, from anywhere among them."""
    return sorted(entries, key=lambda entry: generator_key(seed, "shards of text", entry.name))[:most]


def _ids(store: Store, entries: list[ShardEntry], most_tokens: int, seed: int) -> Iterator[NDArray[Any]]:
    """Token ids of documents, those of each shard in an order that follows from their ids alone."""
    entries = [entry for entry in entries if entry.tokens > 0]
    share = most_tokens / max(1, sum(entry.tokens for entry in entries))
    for entry in entries:
        yield from _of_shard(store, entry, entry.tokens if share >= 1 else round(share * entry.tokens), seed)


def _of_shard(store: Store, entry: ShardEntry, most_tokens: int, seed: int) -> Iterator[NDArray[Any]]:
    mapped = store.open(entry)
    shard, left = mapped.shard, most_tokens
    order = hashes(generator_key(seed, "documents of text"), shard.doc.astype(np.int64))
    for document in np.argsort(order, kind="stable").tolist():
        if left <= 0:
            return
        first, last = int(shard.offsets[document]), int(shard.offsets[document + 1])
        # A copy: the map is closed with the shard.
        yield np.array(shard.ids[first : min(last, first + left)])
        left -= last - first


def _check(store: Store, tokenizer: Tokenizer, documents: list[NDArray[Any]], texts: list[str]) -> None:
    """Refuse a tokenizer whose ids do not become the text that they were made of."""
    before: Counter[int] = Counter()
    after: Counter[int] = Counter()
    encoder = text_encoder(tokenizer)
    for ids, text in zip(documents, texts, strict=True):
        before.update(ids.tolist())
        after.update(encoder.encode(text, add_special_tokens=False).ids)
        if before.total() >= _CHECKED_TOKENS:
            break
    if before and (before & after).total() < _LEAST_SAME * max(before.total(), after.total()):
        raise UnreadableText(
            f"the tokenizer of {store.url} does not turn its ids into the text that they were made of (encoded again, "
            f"{(before & after).total():,} of {before.total():,} ids come out the same), so no sentences can be read "
            "from its held-out text; name another store with --store"
        )
