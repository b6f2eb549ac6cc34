"""The tokenizer of a store: loading, checking, fingerprint, and its files for transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import sha256_of, write_bytes
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Missing
from data_pipeline.store.manifest import TokenizerEntry
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
    roles = find_roles(tokenizer.get_vocab(with_added_tokens=True), named or {}, where)
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
    return int(max(tokenizer.get_vocab(with_added_tokens=True).values())) + 1


def special_names(tokenizer_json: bytes) -> set[str]:
    """The special tokens of a ``tokenizer.json`` as they would be written in a text."""
    raw = json.loads(tokenizer_json)
    added = raw.get("added_tokens") or []
    vocabulary = raw["model"]["vocab"]
    entries = vocabulary if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}
    named = {token["content"] for token in added}.union(name for name in SPECIAL_TOKENS if name in entries)
    special = {token["content"] for token in added if token["special"]}
    return special | (named & set(SPECIAL_TOKENS))


def text_json(tokenizer_json: bytes) -> bytes:
    """A ``tokenizer.json`` for text alone: it takes a literal ``[MASK]`` for plain characters, and nothing is cut.

    Special tokens get names that no text has, in the model as well: a Unigram or a word-level model would find them
    there. Their ids, and those of all other tokens, stay.
    """
    raw = json.loads(tokenizer_json)
    model = raw["model"]
    key = hashlib.sha256(tokenizer_json).hexdigest()
    names = {name: f"\U0010fffe{key} {number}" for number, name in enumerate(sorted(special_names(tokenizer_json)))}
    for token in raw.get("added_tokens") or []:
        token["content"] = names.get(token["content"], token["content"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): index for token, index in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    model["unk_token"] = names.get(model.get("unk_token"), model.get("unk_token"))
    if model["unk_token"] is None:
        del model["unk_token"]
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        pairs = (tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"])
        model["merges"] = [pair for pair in pairs if not names.keys() & {*pair, pair[0] + pair[-1][prefix:]}]
    for name in ("truncation", "padding", "post_processor"):
        raw[name] = None
    return json.dumps(raw, ensure_ascii=False).encode()


def text_encoder(tokenizer: Tokenizer) -> Tokenizer:
    """A copy for text alone, see :func:`text_json`."""
    return Tokenizer.from_str(text_json(tokenizer_json(tokenizer)).decode())


def tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """The bytes of ``tokenizer.json``."""
    return str(tokenizer.to_str(pretty=True)).encode("utf-8") + b"\n"


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of ``tokenizer.json`` as a store holds it."""
    return hashlib.sha256(tokenizer_json(tokenizer)).hexdigest()


def save_tokenizer(store: str | Path, tokenizer: Tokenizer, roles: Roles = BERT_ROLES) -> TokenizerEntry:
    """Write ``tokenizer/`` so that ``transformers.AutoTokenizer`` loads it, and describe it."""
    folder = Path(store) / TOKENIZER_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"tokenizer.json": tokenizer_json(tokenizer), CONFIG: config_json(roles)}
    if isinstance(tokenizer.model, models.WordPiece):
        contents["vocab.txt"] = _vocab_txt(tokenizer)
    for name, data in sorted(contents.items()):
        write_bytes(folder / name, data)
    return TokenizerEntry(
        fingerprint=tokenizer_fingerprint(tokenizer),
        vocab_size=vocabulary_size(tokenizer),
        files={f"{TOKENIZER_FOLDER}/{name}": sha256_of(folder / name) for name in sorted(contents)},
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


def _vocab_txt(tokenizer: Tokenizer) -> bytes:
    by_id = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    lines = [by_id.get(index, f"[unused-gap-{index}]") for index in range(vocabulary_size(tokenizer))]
    return ("\n".join(lines) + "\n").encode("utf-8")
