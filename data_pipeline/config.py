"""The settings of a build, typed, and the strict reading of their YAML file."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from data_pipeline.errors import UserError
from data_pipeline.shard import IdsType

SourceKind = Literal["text", "jsonl", "parquet", "datasets"]


@dataclasses.dataclass
class SourceConfig:
    """One place that documents come from.

    Args:
        kind: what the files are: text, jsonl, parquet, or datasets (Hugging Face).
        paths: files, folders (all files below, without hidden ones) or globs (** allowed), relative to the
            current folder; for text, jsonl and parquet. Text and JSON Lines may be .gz or .zst.
        documents: text only: blank_line (documents are separated by a blank line), line (every line is one)
            or file (every file is one).
        field: the field or column that holds the text; for jsonl, parquet and datasets.
        name: datasets only: a name on the hub, or a local folder (made by save_to_disk, or one that
            load_dataset reads).
        config: datasets only: the data set's configuration, if it has several.
        split: datasets only: which split to read.
    """

    kind: SourceKind = "text"
    paths: list[str] = dataclasses.field(default_factory=list)
    documents: Literal["blank_line", "line", "file"] = "blank_line"
    field: str = "text"
    name: str | None = None
    config: str | None = None
    split: str = "train"


@dataclasses.dataclass
class TokenizerConfig:
    """A new WordPiece vocabulary, or an existing one.

    Args:
        path: an existing vocab.txt, tokenizer.json, or a folder that holds one; left out, a vocabulary is
            trained on the corpus.
        lowercase: lower-case text and strip accents (training, and a vocab.txt); a tokenizer.json keeps its
            own rule.
        vocab_size: entries of a trained vocabulary, the five special tokens included.
        sample_bytes: train on at most about this many bytes of text, drawn evenly from the whole corpus.
        seed: which documents are drawn for training the vocabulary.
        min_frequency: a pair of pieces is merged only if it occurs this often.
        alphabet: at most this many different characters, the most frequent ones; others become [UNK].
    """

    path: str | None = None
    lowercase: bool = True
    vocab_size: int = 30522
    sample_bytes: int = 100_000_000
    seed: int = 0
    min_frequency: int = 2
    alphabet: int = 1000


@dataclasses.dataclass
class CleanConfig:
    """What happens to a document's text before it is tokenized.

    Args:
        unicode: Unicode normal form: NFC, NFKC, or none.
        whitespace: turn runs of blanks into one blank, drop blank lines and control characters.
        min_chars: drop documents with fewer characters after cleaning (empty ones are always dropped).
        max_chars: drop documents with more characters after cleaning.
        deduplicate: keep only the first of documents whose cleaned text is the same.
    """

    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    whitespace: bool = True
    min_chars: int = 1
    max_chars: int = 5_000_000
    deduplicate: bool = True


@dataclasses.dataclass
class BuildConfig:
    """Everything that decides what a store holds.

    Args:
        out: folder of the store to make.
        sources: where the documents come from, in order.
        tokenizer: a new or an existing vocabulary.
        clean: cleaning and de-duplication.
        held_out: share of the documents, chosen by a hash of their text, that goes to the split heldout.
        ids_type: integer type of token ids: auto (the smallest that fits), uint16 or uint32.
        task_bytes: bytes of input per unit of work; each unit becomes one shard per split.
        workers: processes; one per core when left out. Any number gives the same bytes.
        engine: processes (this machine) or mpi (start it under `mpiexec -n N python -m mpi4py.futures`).
    """

    out: str = ""
    sources: list[SourceConfig] = dataclasses.field(default_factory=list)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    clean: CleanConfig = dataclasses.field(default_factory=CleanConfig)
    held_out: float = 0.01
    ids_type: IdsType = "auto"
    task_bytes: int = 32 << 20
    workers: int | None = None
    engine: Literal["processes", "mpi"] = "processes"


def check_config(config: BuildConfig) -> None:
    """Refuse settings that can't work, before anything starts.

    Raises:
        UserError: naming the key, its value and what would be right.
    """

    def need(condition: bool, key: str, value: object, wanted: str) -> None:
        if not condition:
            raise UserError(f"{key} is {value!r}: it must be {wanted}")

    need(bool(config.out), "out", config.out, "the folder of the store to make")
    need(bool(config.sources), "sources", config.sources, "a list with at least one source")
    need(0 <= config.held_out < 1, "held_out", config.held_out, "at least 0 and below 1")
    need(config.task_bytes >= 1024, "task_bytes", config.task_bytes, "at least 1024")
    need(config.workers is None or config.workers >= 1, "workers", config.workers, "at least 1")
    clean, tokenizer = config.clean, config.tokenizer
    need(clean.min_chars >= 0, "clean.min_chars", clean.min_chars, "at least 0")
    need(clean.max_chars >= max(1, clean.min_chars), "clean.max_chars", clean.max_chars, "at least min_chars")
    need(tokenizer.vocab_size >= 32, "tokenizer.vocab_size", tokenizer.vocab_size, "at least 32")
    need(tokenizer.sample_bytes >= 1, "tokenizer.sample_bytes", tokenizer.sample_bytes, "at least 1")
    need(tokenizer.min_frequency >= 1, "tokenizer.min_frequency", tokenizer.min_frequency, "at least 1")
    need(tokenizer.alphabet >= 1, "tokenizer.alphabet", tokenizer.alphabet, "at least 1")
    need(0 <= tokenizer.seed < 1 << 64, "tokenizer.seed", tokenizer.seed, "a whole number below 2**64")
    for index, source in enumerate(config.sources):
        key = f"sources[{index}]"
        if source.kind == "datasets":
            need(bool(source.name), f"{key}.name", source.name, "a data set's name or folder")
            need(not source.paths, f"{key}.paths", source.paths, "left out for kind datasets (use name)")
        else:
            need(bool(source.paths), f"{key}.paths", source.paths, "a list of files, folders or globs")
            need(
                source.name is None,
                f"{key}.name",
                source.name,
                f"left out for kind {source.kind} (use paths)",
            )


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Parse the YAML file of a build and refuse keys that nobody reads.

    Raises:
        UserError: the file is missing or no YAML mapping, or a key is unknown (naming the nearest valid one).
    """
    try:
        text = Path(path).read_text("utf-8")
    except FileNotFoundError:
        raise UserError(f"no configuration file {path}: check the path after --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read configuration file {path}: {error}") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold keys and values such as `out: store`, not {type(raw).__name__}")
    _check_keys(raw, BuildConfig, "", str(path))
    for name, section in (("tokenizer", TokenizerConfig), ("clean", CleanConfig)):
        if name in raw:
            _check_keys(_as_mapping(raw[name], name, str(path)), section, f"{name}.", str(path))
    sources = raw.get("sources", [])
    if not isinstance(sources, list):
        raise UserError(f"{path}: sources must be a list (lines that start with a dash)")
    for index, source in enumerate(sources):
        key = f"sources[{index}]"
        _check_keys(_as_mapping(source, key, str(path)), SourceConfig, f"{key}.", str(path))
        paths = source.get("paths", [])
        if not isinstance(paths, list) or not all(isinstance(entry, str) for entry in paths):
            raise UserError(f"{path}: {key}.paths must be a list of strings, such as paths: [corpus/*.txt]")
    return raw


def nearest(name: str, valid: Sequence[str]) -> str:
    """A hint such as ``did you mean 'workers'?``, or the list of valid names."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid are: {', '.join(valid)}"


def _as_mapping(value: object, key: str, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: {key} must hold keys and values, not {type(value).__name__}")
    return value


def _check_keys(mapping: Mapping[Any, Any], section: type[Any], prefix: str, path: str) -> None:
    valid = [field.name for field in dataclasses.fields(section)]
    for key in mapping:
        if key not in valid:
            raise UserError(f"unknown key '{prefix}{key}' in {path}: {nearest(str(key), valid)}")
