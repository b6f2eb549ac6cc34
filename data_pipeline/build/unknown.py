"""How much of the text the tokenizer doesn't know, by source: reported at the end of a build."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from data_pipeline.build.records import Record
from data_pipeline.config import TokenizerConfig
from data_pipeline.tokenize.roles import UNK
from data_pipeline.tokenize.tokenizer import MAX_WORD

# Above this share of its tokens, a source gets a warning.
WARNED_SHARE = 0.01
# A source above that has a task above this, which then has an example.
EXAMPLE_SHARE = WARNED_SHARE / 10
_SHOWN = 40


class UnknownTokens:
    """Counts of ``[UNK]``, or what a tokenizer has in its place, for each source of a build with these settings.

    ``entries`` is the size of the tokenizer's vocabulary, ``name`` its unknown token; None if it has none.
    """

    def __init__(self, settings: Mapping[str, Any], entries: int, name: str | None = UNK) -> None:
        self._name = name
        self._tokenizer = settings["tokenizer"]
        self._entries = entries
        labels = [source["label"] for source in settings["sources"]]
        several = collections.Counter(labels)
        self._names = [
            label if several[label] == 1 else f"sources[{index}] ({label})" for index, label in enumerate(labels)
        ]
        self._unknown = [0] * len(labels)
        self._tokens = [0] * len(labels)
        self._examples = [""] * len(labels)

    def add(self, source: int, info: Mapping[str, Any], first: Callable[[], Record]) -> None:
        """Add what a task recorded; ``first`` gets the record that it made while it had the text."""
        unknown, tokens = int(info["unknown_tokens"]), sum(shard["tokens"] for shard in info["shards"])
        self._unknown[source] += unknown
        self._tokens[source] += tokens
        if unknown > EXAMPLE_SHARE * tokens and not self._examples[source]:
            found = info if info.get("unknown_example") else first().info
            self._examples[source] = found.get("unknown_example", "")

    def lines(self) -> list[str]:
        """The share of all tokens and of those of each source, then a line for each source above one per cent."""
        if self._name is None:
            return ["unknown tokens: none, the tokenizer has no token for what it does not know"]
        shares = [unknown / max(1, tokens) for unknown, tokens in zip(self._unknown, self._tokens, strict=True)]
        by_source = ", ".join(f"{name} {_percent(share)}" for name, share in zip(self._names, shares, strict=True))
        everything = f"{self._name}: {_percent(sum(self._unknown) / max(1, sum(self._tokens)))} of the tokens"
        lines = [f"{everything} ({by_source})" if len(shares) > 1 else everything]
        for name, share, example in zip(self._names, shares, self._examples, strict=True):
            if share > WARNED_SHARE:
                lines.append(
                    f"WARNING: {_percent(share)} of the tokens of {name} are {self._name}{self._advice(example)}"
                )
        return lines

    def _advice(self, example: str) -> str:
        shown = f", such as {example[:_SHOWN]!r}" if example else ""
        if len(example) > MAX_WORD:
            return f"{shown}... ({len(example):,} characters): WordPiece knows no word of more than {MAX_WORD}"
        if "existing" in self._tokenizer:
            return f"{shown}: give a tokenizer.path made for this text, or leave it out to train a vocabulary"
        return f"{shown}: {' or '.join(self._settings_to_change())}, or give a tokenizer.path made for this text"

    def _settings_to_change(self) -> Iterator[str]:
        """What kept characters out of a trained vocabulary."""
        settings = self._tokenizer
        if settings["alphabet"] != TokenizerConfig.alphabet:
            yield f"raise tokenizer.alphabet ({settings['alphabet']:,} characters)"
        if self._entries >= settings["vocab_size"]:
            yield f"raise tokenizer.vocab_size ({settings['vocab_size']:,})"
        elif settings["alphabet"] == TokenizerConfig.alphabet:
            yield f"lower tokenizer.min_frequency ({settings['min_frequency']})"
            yield f"raise tokenizer.sample_bytes ({settings['sample_bytes']:,})"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
