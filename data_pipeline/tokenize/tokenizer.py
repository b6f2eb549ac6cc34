"""The tokenizer of a store: loading, checking, fingerprint, and its files for transformers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import sha256_of, write_bytes
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Missing
from data_pipeline.store.manifest import TokenizerEntry

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENIZER_FOLDER = "tokenizer"
_MAX_LENGTH = 512


def wordpiece_tokenizer(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    """BERT's tokenizer over a vocabulary: its normalizer, its splitting at punctuation, greedy WordPiece.

    Raises:
        UserError: a special token is missing from the vocabulary.
    """
    _check_specials(vocabulary, "the vocabulary")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNK, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, vocabulary[CLS]), (SEP, vocabulary[SEP])],
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def read_tokenizer(path: str | Path, lowercase: bool) -> Tokenizer:
    """An existing ``vocab.txt``, ``tokenizer.json``, or the folder of either (the latter is preferred).

    Raises:
        UserError: missing, unreadable, or without one of the five special tokens.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        candidates = [file / "tokenizer.json", file / "vocab.txt"]
        present = [candidate for candidate in candidates if candidate.is_file()]
        if not present:
            raise UserError(f"tokenizer.path: {file} holds neither tokenizer.json nor vocab.txt")
        file = present[0]
    if not file.is_file():
        raise UserError(f"tokenizer.path: no file {file}: give a vocab.txt, a tokenizer.json or their folder")
    if file.suffix == ".json":
        return _read_json(file)
    return wordpiece_tokenizer(_read_vocabulary(file), lowercase)


def _read_json(file: Path) -> Tokenizer:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read tokenizer {file}: {error.strerror}") from error
    return parse_tokenizer(data, str(file))


def parse_tokenizer(data: bytes, where: str) -> Tokenizer:
    """The tokenizer of the bytes of a ``tokenizer.json``, for whole documents; ``where`` names them in errors.

    Raises:
        UserError: the bytes are not a tokenizer, or one of the five special tokens is missing.
    """
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises nothing more specific for a bad file
        raise UserError(f"cannot read tokenizer {where}: {error}") from error
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    _check_specials(vocabulary, where)
    # Published files often cut at 128 or 512 tokens; documents are kept whole here.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def _read_vocabulary(file: Path) -> dict[str, int]:
    try:
        lines = file.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read vocabulary {file}: {error}") from error
    if lines and not lines[-1]:
        lines.pop()
    vocabulary: dict[str, int] = {}
    for index, line in enumerate(lines):
        entry = line.rstrip("\r")
        if entry in vocabulary:
            raise UserError(f"{file}:{index + 1}: {entry!r} occurs twice: a vocabulary has one entry a line")
        vocabulary[entry] = index
    _check_specials(vocabulary, str(file))
    return vocabulary


def _check_specials(vocabulary: dict[str, int], where: str) -> None:
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise UserError(
            f"{where} lacks {', '.join(missing)}: ELECTRA needs all of {', '.join(SPECIAL_TOKENS)}; "
            "add them or train a new vocabulary"
        )


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest token id, added tokens included."""
    return int(max(tokenizer.get_vocab(with_added_tokens=True).values())) + 1


def text_encoder(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that takes a literal ``[MASK]`` in a text for plain characters, so no special id gets in."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    return copy


def tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """The bytes of ``tokenizer.json``."""
    return str(tokenizer.to_str(pretty=True)).encode("utf-8") + b"\n"


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of ``tokenizer.json`` as a store holds it."""
    return hashlib.sha256(tokenizer_json(tokenizer)).hexdigest()


def save_tokenizer(store: str | Path, tokenizer: Tokenizer) -> TokenizerEntry:
    """Write ``tokenizer/`` so that ``transformers.AutoTokenizer`` loads it, and describe it."""
    folder = Path(store) / TOKENIZER_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"tokenizer.json": tokenizer_json(tokenizer), "tokenizer_config.json": _config_json(tokenizer)}
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
    place = open_place(store)
    name = f"{TOKENIZER_FOLDER}/tokenizer.json"
    try:
        data = place.read(name)
    except Missing:
        raise UserError(f"{place.url} has no {name}: an unfinished build or not a store") from None
    return parse_tokenizer(data, f"{place.url}/{name}")


def _config_json(tokenizer: Tokenizer) -> bytes:
    # This class takes tokenizer.json as it is; BERT's own would rebuild the normalizer from its options.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": _MAX_LENGTH,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "pad_token": PAD,
        "unk_token": UNK,
        "cls_token": CLS,
        "sep_token": SEP,
        "mask_token": MASK,
    }
    return json.dumps(config, indent=1, sort_keys=True).encode() + b"\n"


def _vocab_txt(tokenizer: Tokenizer) -> bytes:
    by_id = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    lines = [by_id.get(index, f"[unused-gap-{index}]") for index in range(vocabulary_size(tokenizer))]
    return ("\n".join(lines) + "\n").encode("utf-8")
