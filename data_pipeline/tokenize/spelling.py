"""How vocabularies mark what continues a word, brought to one form for people: WordPiece's."""

from __future__ import annotations

import json

from tokenizers import Tokenizer, decoders, pre_tokenizers

CONTINUES = "##"
"""In front of a piece that continues a word, as shown to people, whatever mark the vocabulary has."""

_NAMES = {"WordPiece": "WordPiece", "BPE": "BPE", "Unigram": "Unigram", "WordLevel": "whole words"}


class Spelling:
    """Tokens of a vocabulary as people read them.

    WordPiece marks pieces that continue a word, byte-level BPE and Unigram those that start one (with the blank before
    it): here all of them look like WordPiece's, and bytes are characters. Tokens of kinds without such a mark, and
    special and added ones, stay as they are spelled.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        raw = json.loads(tokenizer.to_str())
        model, steps = raw["model"], json.dumps([raw["normalizer"], raw["pre_tokenizer"], raw["decoder"]])
        self.kind = _NAMES[model["type"]]
        self._prefix = model.get("continuing_subword_prefix") or ""
        self._bytes = '"ByteLevel"' in steps
        if self._bytes:
            self.kind = f"byte-level {self.kind}"
        self._blank = "▁" if '"Metaspace"' in steps or '"▁"' in steps else ""
        self._as_spelled = {token["content"] for token in raw["added_tokens"]}
        self._decoder = decoders.ByteLevel()
        self._alphabet = set(pre_tokenizers.ByteLevel.alphabet())

    def shown(self, token: str) -> str:
        """The token, with :data:`CONTINUES` in front if it continues a word."""
        if token in self._as_spelled or not token:
            return token
        if self._bytes and self._alphabet.issuperset(token):
            text = str(self._decoder.decode([token]))
            return text.strip() or token if text[:1].isspace() else CONTINUES + text
        if self._blank:
            return token.removeprefix(self._blank) or token if token.startswith(self._blank) else CONTINUES + token
        if self._prefix and token.startswith(self._prefix):
            return CONTINUES + token.removeprefix(self._prefix)
        return token
