"""An existing tokenizer: a ``vocab.txt``, a ``tokenizer.json``, or a folder as transformers saves it.

A folder is taken with all that it says (case, accents, added tokens), which is what ``transformers.AutoTokenizer``
makes of it. That its ids come out the same is checked on hard texts before anything is built.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from data_pipeline.errors import UserError
from data_pipeline.tokenize.description import Description, describe
from data_pipeline.tokenize.panics import panics_as_errors
from data_pipeline.tokenize.probes import PROBES
from data_pipeline.tokenize.roles import BERT_ROLES, ROLES, UNK, Roles, add_special
from data_pipeline.tokenize.tokenizer import (
    CONFIG,
    check_specials,
    config_json,
    parse_tokenizer,
    wordpiece_tokenizer,
)

# What tells more of a tokenizer than its own file does.
_SETTINGS = (CONFIG, "special_tokens_map.json", "added_tokens.json", "config.json")
# Besides the probes, this many entries of the vocabulary are encoded, so many to a text.
_TRIED_ENTRIES, _ENTRIES_PER_TEXT = 2000, 20

Report = Callable[[str], None]


def _say_nothing(line: str) -> None:
    """For callers that have reported before."""


def read_tokenizer(path: str | Path, lowercase: bool, report: Report = _say_nothing) -> tuple[Tokenizer, Roles]:
    """An existing ``vocab.txt``, ``tokenizer.json``, or the folder of a tokenizer; and its special tokens' roles.

    Args:
        lowercase: lower-case text and strip accents: for a ``vocab.txt`` with which nothing else says it.
        report: gets a line for each thing that a user should know of.

    Raises:
        UserError: missing, unreadable, without a special token that training needs, or not usable for text.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        tokenizer, roles = _read_folder(given, lowercase)
    elif given.is_file():
        tokenizer, roles = _read_file(given, lowercase)
        if given.suffix != ".json":
            _refuse_other_case(given, lowercase)
    else:
        raise UserError(f"tokenizer.path: no file {given}: give a vocab.txt, a tokenizer.json or their folder")
    tokenizer = _with_unknown_token(tokenizer, roles, given, report)
    _check_encodes(tokenizer, given)
    _report_ends(tokenizer, roles, given, report)
    return tokenizer, roles


def _read_file(file: Path, lowercase: bool) -> tuple[Tokenizer, Roles]:
    if file.suffix != ".json":
        return wordpiece_tokenizer(_read_vocabulary(file), lowercase), BERT_ROLES
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read tokenizer {file}: {error.strerror}") from error
    return parse_tokenizer(data, str(file))


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
    check_specials(vocabulary, str(file))
    return vocabulary


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _refuse_other_case(file: Path, lowercase: bool) -> None:
    said = _read_json(file.parent / CONFIG).get("do_lower_case")
    if isinstance(said, bool) and said != lowercase:
        raise UserError(
            f"tokenizer.lowercase is {str(lowercase).lower()} but {file.parent / CONFIG} says do_lower_case "
            f"{str(said).lower()}: set tokenizer.lowercase to {str(said).lower()}, or give the folder {file.parent}"
        )


def _read_folder(folder: Path, lowercase: bool) -> tuple[Tokenizer, Roles]:
    present = [file for name in ("tokenizer.json", "vocab.txt") if (file := folder / name).is_file()]
    settings = [name for name in _SETTINGS if (folder / name).is_file()]
    if present and settings == [CONFIG] and (folder / CONFIG).read_bytes() == config_json():
        # The folder of a store: its configuration says what ours does for BERT's names.
        settings = []
    if not settings:
        if not present:
            raise UserError(f"tokenizer.path: {folder} holds neither tokenizer.json nor vocab.txt")
        return _read_file(present[0], lowercase)
    theirs = _load_folder(folder, lowercase, bool(present))
    tokenizer, roles = _backend(theirs, folder)
    with contextlib.suppress(UserError):
        own = _read_file(present[0], _lowers(tokenizer))[0] if present else tokenizer
        # The same tokenizer as a release before this one wrote it: its file keeps its bytes.
        if _rules(own) == _rules(tokenizer):
            tokenizer = own
    if not lowercase and _lowers(tokenizer) and "do_lower_case" not in _read_json(folder / CONFIG):
        raise UserError(
            f"tokenizer.lowercase is false but {folder} lower-cases text, as its kind does by default: "
            f'add "do_lower_case": false to {folder / CONFIG}, or leave tokenizer.lowercase out'
        )
    _check_ids(tokenizer, theirs, folder)
    return tokenizer, roles


def _load_folder(folder: Path, lowercase: bool, present: bool) -> Any:
    """The tokenizer of a folder as transformers loads it."""
    config = _read_json(folder / CONFIG)
    model = _read_json(folder / "config.json")
    named = {"tokenizer_class", "auto_map"} & config.keys() or {"tokenizer_class", "model_type"} & model.keys()
    with _transformers(folder, present) as library:
        if named or not (folder / "vocab.txt").is_file() or (folder / "tokenizer.json").is_file():
            return library.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # AutoTokenizer needs a class; a vocab.txt is BERT's.
        chosen = {} if "do_lower_case" in config else {"do_lower_case": lowercase}
        return library.BertTokenizerFast.from_pretrained(folder, local_files_only=True, **chosen)


@contextlib.contextmanager
def _transformers(folder: Path, present: bool) -> Iterator[Any]:
    """The library, quiet; what it raises over a folder becomes one line."""
    # It takes seconds to import, and builds that train a vocabulary do without.
    import transformers

    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    try:
        with panics_as_errors():
            yield transformers
    except UserError:
        raise
    except Exception as error:  # the library has no error of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        holds = "" if present else " holds neither tokenizer.json nor vocab.txt, and"
        raise UserError(
            f"tokenizer.path: {folder}{holds} is not a tokenizer that transformers can load ({reason}): where its "
            "packages are installed (sentencepiece, tiktoken), load it and write tokenizer.json by save_pretrained"
        ) from error
    finally:
        transformers.logging.set_verbosity(verbosity)


def _backend(theirs: Any, folder: Path) -> tuple[Tokenizer, Roles]:
    if not getattr(theirs, "is_fast", False):
        raise UserError(
            f"tokenizer.path: {folder} holds a {type(theirs).__name__}, which runs in Python only: convert it to a "
            "tokenizer.json, or train a new vocabulary"
        )
    data = str(theirs.backend_tokenizer.to_str()).encode()
    named = {role: str(token) for role in ROLES if (token := getattr(theirs, role, None)) is not None}
    try:
        tokenizer, roles = parse_tokenizer(data, str(folder), named)
    except UserError as error:
        raise UserError(f"{error} (it names {', '.join(sorted(set(named.values()))) or 'none'})") from error
    # What only the configuration calls special must not come from text either.
    add_special(tokenizer, [str(token) for token in theirs.all_special_tokens])
    return tokenizer, roles


def _report_ends(tokenizer: Tokenizer, roles: Roles, where: Path, report: Report) -> None:
    """Say it where the tokenizer puts other tokens around a text than training does, which fine-tuning would see."""
    found = tokenizer.encode("a").tokens
    if (found[0], found[-1]) != (roles.cls, roles.sep):
        report(
            f"tokenizer: {where} does not put {roles.cls} and {roles.sep} around a text, as training does: set its "
            "post_processor, or add them where the model is used"
        )


def _rules(tokenizer: Tokenizer) -> object:
    """All that decides the ids of plain text, and which ids are special."""
    raw = describe(tokenizer).raw
    added = raw["added_tokens"]
    special = sorted((token["id"], token["content"]) for token in added if token["special"])
    plain = [token for token in added if not token["special"]]
    return raw["normalizer"], raw["pre_tokenizer"], raw["model"], special, plain


def _lowers(tokenizer: Tokenizer) -> bool:
    normalizer = describe(tokenizer).raw["normalizer"] or {}
    return normalizer.get("type") == "BertNormalizer" and bool(normalizer.get("lowercase"))


def _hard_texts(tokenizer: Description) -> Iterator[str]:
    """The probes, and entries of the vocabulary, without the names of special tokens."""
    specials = tokenizer.specials
    entries = sorted(tokenizer.vocabulary.keys() - specials)
    entries = entries[:: max(1, len(entries) // _TRIED_ENTRIES)]
    groups = [entries[start : start + _ENTRIES_PER_TEXT] for start in range(0, len(entries), _ENTRIES_PER_TEXT)]
    for text in (*PROBES, *map(" ".join, groups), *map("".join, groups)):
        if not any(special in text for special in specials):
            yield text


def _check_ids(tokenizer: Tokenizer, theirs: Any, folder: Path) -> None:
    """Refuse a tokenizer that gives other ids than transformers does for the folder that it comes from."""
    ours = describe(tokenizer)
    encoder = ours.text_encoder
    special = {ours.vocabulary[name] for name in ours.specials} - {ours.unknown}
    for text in _hard_texts(ours):
        try:
            with panics_as_errors():
                wanted = theirs(text, add_special_tokens=False, verbose=False)["input_ids"]
                found = encoder.encode(text, add_special_tokens=False).ids
        except Exception:
            # Either library may raise anything where there is no unknown token; _check_encodes then judges ours.
            continue
        # A normalizer can make a special token of characters that are none; not here.
        if found != wanted and not special.intersection(wanted):
            raise UserError(
                f"tokenizer.path: {folder} gives the ids {_some(found)} for {text[:40]!r}, but transformers loads it "
                f"as a {type(theirs).__name__} that gives {_some(wanted)}: save it again by save_pretrained"
            )


def _some(ids: list[int]) -> str:
    return f"{ids[:12]}"[:-1] + (", ...]" if len(ids) > 12 else "]")


def _with_unknown_token(tokenizer: Tokenizer, roles: Roles, where: Path, report: Report) -> Tokenizer:
    """The tokenizer, with its unknown token for what it doesn't know where it would have nothing.

    Raises:
        UserError: it can't have that, or leaves out merges at random.
    """
    raw = describe(tokenizer).raw
    model = raw["model"]
    vocabulary = model["vocab"]
    changes: dict[str, Any]
    unknown = roles.unk or UNK
    if model.get("dropout"):
        raise UserError(
            f"tokenizer.path: {where} leaves out merges at random (dropout): set model.dropout to null in it"
        )
    if isinstance(vocabulary, list):
        pieces = [piece for piece, _ in vocabulary]
        everything = model.get("byte_fallback") and {f"<0x{byte:02X}>" for byte in range(256)} <= set(pieces)
        if model.get("unk_id") is not None or everything:
            return tokenizer
        if unknown not in pieces:
            raise UserError(
                f"tokenizer.path: {where} has no unknown token (unk_id is null, and {unknown} is not one of its "
                f"pieces): add the piece {unknown} and set unk_id to it"
            )
        changes = {"unk_id": pieces.index(unknown)}
    else:
        if model.get("unk_token") in vocabulary:
            return tokenizer
        if model.get("unk_token") is None and model.get("type") == "BPE":
            if "ByteLevel" not in json.dumps([raw["normalizer"], raw["pre_tokenizer"]]):
                report(f"tokenizer: {where} has no unknown token: characters that it does not know are left out")
            return tokenizer
        if roles.unk is None:
            raise UserError(
                f"tokenizer.path: {where} has no unknown token, which a {model.get('type')} model needs: add {UNK}"
            )
        changes = {"vocab": {unknown: tokenizer.token_to_id(unknown), **vocabulary}, "unk_token": unknown}
    content = {**raw, "model": {**model, **changes}}
    changed, _ = parse_tokenizer(json.dumps(content).encode(), str(where), roles.named())
    if changed.get_vocab(with_added_tokens=True) != tokenizer.get_vocab(with_added_tokens=True):
        raise UserError(f"tokenizer.path: the unknown token of {where} is not in its vocabulary: set it to {unknown}")
    report(f"tokenizer: {where} has no unknown token: what it does not know becomes {unknown}")
    return changed


def _check_encodes(tokenizer: Tokenizer, where: Path) -> None:
    """Refuse a tokenizer that fails on some text, or whose entries have not each an id that saving keeps."""
    known = describe(tokenizer)
    try:
        with panics_as_errors():
            encoder = known.text_encoder
    except Exception as error:
        raise UserError(f"tokenizer.path: {where} cannot be loaded again ({error}): repair it") from error
    vocabulary, saved = (one.get_vocab(with_added_tokens=True) for one in (tokenizer, encoder))
    plain = {token: index for token, index in vocabulary.items() if token not in known.specials}
    same = plain.items() <= saved.items() and set(saved.values()) == set(vocabulary.values())
    if not same or len(set(vocabulary.values())) < len(vocabulary):
        raise UserError(
            f"tokenizer.path: {where} has two entries with one id, or added tokens whose ids do not follow those "
            "of its vocabulary: number its entries from 0 without gaps"
        )
    texts = list(_hard_texts(known))
    with contextlib.suppress(Exception), panics_as_errors():
        rows = encoder.encode_batch_fast(texts, add_special_tokens=False)
        if max((index for row in rows for index in row.ids), default=0) < known.size:
            return
    # Something is wrong with one of them.
    for text in texts:
        try:
            with panics_as_errors():
                ids = encoder.encode(text, add_special_tokens=False).ids
        except Exception as error:
            raise UserError(f"tokenizer.path: {where} cannot encode {text[:40]!r} ({error}): repair it") from error
        if ids and max(ids) >= known.size:
            raise UserError(
                f"tokenizer.path: {where} gives an id outside of its vocabulary for {text[:40]!r}: repair it"
            )
