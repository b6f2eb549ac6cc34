"""What is asked of a tokenizer again and again, found once for the bytes of its ``tokenizer.json``.

Extracting or saving a vocabulary takes tens of milliseconds each time, as long as a build reads megabytes of text.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import orjson
from tokenizers import Tokenizer

from data_pipeline.tokenize.roles import NOTHING, SPECIAL_TOKENS


class Description:
    """A tokenizer by the bytes of its ``tokenizer.json``, as :func:`tokenizer_json` has them.

    What it gives is shared by all who ask: nobody may change it.
    """

    def __init__(self, data: bytes) -> None:
        self.json = data

    @functools.cached_property
    def raw(self) -> dict[str, Any]:
        """The JSON."""
        content: dict[str, Any] = orjson.loads(self.json)
        return content

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.json).hexdigest()

    @functools.cached_property
    def vocabulary(self) -> dict[str, int]:
        """The id of each token, added tokens included."""
        entries = self.raw["model"]["vocab"]
        model = entries if isinstance(entries, dict) else {piece: index for index, (piece, _) in enumerate(entries)}
        return model | {token["content"]: token["id"] for token in self._added}

    @functools.cached_property
    def size(self) -> int:
        """One more than the largest token id, added tokens included."""
        return max(self.vocabulary.values()) + 1

    @functools.cached_property
    def specials(self) -> frozenset[str]:
        """The special tokens as they would be written in a text."""
        special = {token["content"] for token in self._added if token["special"]}
        return frozenset(special.union(name for name in SPECIAL_TOKENS if name in self.vocabulary))

    @functools.cached_property
    def unknown(self) -> int:
        """The id that the tokenizer gives to what it doesn't know; :data:`NOTHING` if it has none."""
        model = self.raw["model"]
        if model.get("unk_id") is not None:
            return int(model["unk_id"])
        return self.vocabulary.get(model.get("unk_token"), NOTHING)

    @property
    def unknown_token(self) -> str | None:
        """The token of that id; None if there is none."""
        return next((token for token, index in self.vocabulary.items() if index == self.unknown), None)

    @functools.cached_property
    def for_text(self) -> dict[str, Any]:
        """The JSON of a tokenizer for text alone: it takes a literal ``[MASK]`` for plain characters, and cuts nothing.

        Special tokens get names that no text has, in the model as well: a Unigram or a word-level model would find them
        there. Their ids, and those of all other tokens, stay.
        """
        model = dict(self.raw["model"])
        names = {name: f"\U0010fffe{self.fingerprint} {number}" for number, name in enumerate(sorted(self.specials))}
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(token, token): index for token, index in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        unknown = model.pop("unk_token", None)
        if unknown is not None:
            model["unk_token"] = names.get(unknown, unknown)
        if "merges" in model:
            prefix = len(model.get("continuing_subword_prefix") or "")
            pairs = (tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"])
            model["merges"] = [pair for pair in pairs if not names.keys() & {*pair, pair[0] + pair[-1][prefix:]}]
        added = [{**token, "content": names.get(token["content"], token["content"])} for token in self._added]
        nothing = dict.fromkeys(("truncation", "padding", "post_processor"))
        return {**self.raw, **nothing, "model": model, "added_tokens": added}

    def new_text_encoder(self) -> Tokenizer:
        """A tokenizer of :attr:`for_text`."""
        return Tokenizer.from_str(orjson.dumps(self.for_text).decode("utf-8"))

    @functools.cached_property
    def text_encoder(self) -> Tokenizer:
        """The same, one for all."""
        return self.new_text_encoder()

    @property
    def _added(self) -> list[dict[str, Any]]:
        return self.raw.get("added_tokens") or []


@functools.lru_cache(maxsize=2)
def described(tokenizer_json: bytes) -> Description:
    """The description of a ``tokenizer.json``."""
    return Description(tokenizer_json)


def describe(tokenizer: Tokenizer) -> Description:
    """The description of a tokenizer as it is now."""
    return described(tokenizer_json(tokenizer))


def tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """The bytes of ``tokenizer.json``."""
    return str(tokenizer.to_str(pretty=True)).encode("utf-8") + b"\n"
