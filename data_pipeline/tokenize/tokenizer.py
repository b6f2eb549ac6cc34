"""The tokenizer of a store: loading, checking, fingerprint, and its files for transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Missing, Place
from data_pipeline.store.manifest import TokenizerEntry
from data_pipeline.tokenize.description import Description, describe
from data_pipeline.tokenize.panics import panics_as_errors
from data_pipeline.tokenize.roles import (
    BERT_ROLES,
    SPECIAL_TOKENS,
    UNK,
    Roles,
    add_special,
    find_roles,
)

TOKENIZER_FOLDER = "tokenizer"
CONFIG = "tokenizer_config.json"
# WordPiece makes longer words [UNK] without a look at them.
MAX_WORD = 100
_MAX_LENGTH = 512


def wordpiece_tokenizer(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    """BERT's tokenizer over a vocabulary: its normalizer, its splitting at punctuation, greedy WordPiece.

    Raises:
        UserError: a special token is missing from the vocabulary.
    """
    check_specials(vocabulary, "the vocabulary")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNK, max_input_chars_per_word=MAX_WORD))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    put_ends(tokenizer, BERT_ROLES)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def put_ends(tokenizer: Tokenizer, roles: Roles) -> None:
    """Have a tokenizer put the start before a text and the end behind it, and behind the second text of a pair."""
    first, last = roles.cls, roles.sep
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (first, last)],
    )


def parse_tokenizer(data: bytes, where: str, named: Mapping[str, Any] | None = None) -> tuple[Tokenizer, Roles]:
    """The tokenizer of the bytes of a ``tokenizer.json``, for whole documents; ``where`` names them in errors.

    Its special tokens are those that ``named`` names, ``mask_token`` and so on, else they are found by known names.

    Raises:
        UserError: the bytes are not a tokenizer, or a special token is missing.
    """
    try:
        with panics_as_errors():
            tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises nothing more specific for a bad file
        raise UserError(f"cannot read tokenizer {where}: {error}") from error
    roles = find_roles(lambda name: tokenizer.token_to_id(name) is not None, named or {}, where)
    # Published files often cut at 128 or 512 tokens; documents are kept whole here.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    add_special(tokenizer, roles.names())
    return tokenizer, roles


def check_specials(vocabulary: dict[str, int], where: str) -> None:
    """Raise UserError if one of the five special tokens is missing."""
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise UserError(
            f"{where} lacks {', '.join(missing)}: ELECTRA needs all of {', '.join(SPECIAL_TOKENS)}; "
            "add them or train a new vocabulary"
        )


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest token id, added tokens included."""
    # Of the vocabulary in use: the library saves none of it where an id is the largest number that it knows.
    return int(max(tokenizer.get_vocab(with_added_tokens=True).values())) + 1


def text_encoder(tokenizer: Tokenizer) -> Tokenizer:
    """A copy for text alone, see :attr:`Description.for_text`."""
    return describe(tokenizer).new_text_encoder()


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of ``tokenizer.json`` as a store holds it."""
    return describe(tokenizer).fingerprint


def save_tokenizer(store: str | Path, tokenizer: Tokenizer, roles: Roles = BERT_ROLES) -> TokenizerEntry:
    """As :func:`put_tokenizer`, for a tokenizer of which the bytes are not known."""
    return put_tokenizer(open_place(store), describe(tokenizer), roles)


def put_tokenizer(place: Place, tokenizer: Description, roles: Roles) -> TokenizerEntry:
    """Write ``tokenizer/`` so that ``transformers.AutoTokenizer`` loads it, and describe it."""
    contents = {"tokenizer.json": tokenizer.json, CONFIG: config_json(roles)}
    if tokenizer.raw["model"]["type"] == "WordPiece":
        contents["vocab.txt"] = _vocab_txt(tokenizer)
    files = {f"{TOKENIZER_FOLDER}/{name}": contents[name] for name in sorted(contents)}
    for name, data in files.items():
        place.put(name, data)
    return TokenizerEntry(
        fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.size,
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )


def load_tokenizer(store: str | Path) -> Tokenizer:
    """The tokenizer of a store, a folder or ``s3://bucket/prefix``.

    Raises:
        UserError: the store has none or does not answer, or the tokenizer can't be read.
    """
    return load_with_roles(store)[0]


def load_with_roles(store: str | Path) -> tuple[Tokenizer, Roles]:
    """The tokenizer of a store, and its special tokens by what they are for; raises as :func:`load_tokenizer`."""
    place = open_place(store)
    name, config = f"{TOKENIZER_FOLDER}/tokenizer.json", f"{TOKENIZER_FOLDER}/{CONFIG}"
    try:
        data = place.read(name)
    except Missing:
        raise UserError(f"{place.url} has no {name}: an unfinished build or not a store") from None
    try:
        named = json.loads(place.read(config))
    except Missing:
        named = {}
    except ValueError as error:
        raise UserError(f"cannot read {place.url}/{config}: {error}; restore it") from error
    return parse_tokenizer(data, f"{place.url}/{name}", named if isinstance(named, dict) else {})


def config_json(roles: Roles = BERT_ROLES) -> bytes:
    """The bytes of a store's ``tokenizer_config.json``."""
    # This class takes tokenizer.json as it is; BERT's own would rebuild the normalizer from its options.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": _MAX_LENGTH,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **roles.named(),
    }
    return json.dumps(config, indent=1, sort_keys=True).encode() + b"\n"


def _vocab_txt(tokenizer: Description) -> bytes:
    by_id = {index: token for token, index in tokenizer.vocabulary.items()}
    lines = [by_id.get(index, f"[unused-gap-{index}]") for index in range(tokenizer.size)]
    return ("\n".join(lines) + "\n").encode("utf-8")
