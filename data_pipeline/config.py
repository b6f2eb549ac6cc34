"""The settings of a build, typed, and the strict reading of their YAML file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

from data_pipeline.errors import UserError
from data_pipeline.places.names import is_object_store, split_s3_key, split_s3_url
from data_pipeline.settings import as_mapping, nearest, read_settings
from data_pipeline.store.shard import IdsType

SourceKind = Literal["text", "jsonl", "parquet", "datasets", "wikipedia"]
FilterName = Literal["words", "word_length", "symbols", "letters", "stop_words", "repeated_lines"]


@dataclasses.dataclass
class SourceConfig:
    """One place that documents come from.

    Args:
        kind: what the files are: text, jsonl, parquet, wikipedia (an XML dump), or datasets (Hugging Face).
        paths: files, folders (all files below, without hidden ones) or globs (** allowed), relative to the
            current folder, or s3://bucket/key (a key, a prefix that ends in /, or a glob); what exists as it is named
            is no glob; not for datasets.
            Text, JSON Lines and dumps may be .gz, .zst or .bz2. A compressed file or a dump is read by one worker:
            give a dump's numbered parts rather than the whole.
        documents: text only: blank_line (documents are separated by a blank line), line (every line is one)
            or file (every file is one).
        field: the field or column that holds the text; for jsonl, parquet and datasets.
        name: datasets only: a name on the hub, or a local folder (made by save_to_disk, or one that
            load_dataset reads).
        config: datasets only: the data set's configuration, if it has several.
        split: datasets only: which split to read.
        label: what training calls this source, for a mixture; left out, all such sources are "main".
    """

    kind: SourceKind = "text"
    paths: list[str] = dataclasses.field(default_factory=list)
    documents: Literal["blank_line", "line", "file"] = "blank_line"
    field: str = "text"
    name: str | None = None
    config: str | None = None
    split: str = "train"
    label: str = "main"


@dataclasses.dataclass
class TokenizerConfig:
    """A new vocabulary, or an existing one.

    Args:
        kind: of a new vocabulary: wordpiece, or bpe, which merges bytes and so knows every text.
        path: the folder of an existing tokenizer, or its vocab.txt or tokenizer.json; left out, a vocabulary is
            trained on the corpus.
        lowercase: lower-case text and strip accents (training, and a vocab.txt); a tokenizer.json, and a folder that
            says it, keep their own rule. Left out: true, for kind bpe false.
        vocab_size: entries of a trained vocabulary, the five special tokens included.
        sample_bytes: train on at most about this many bytes of text, drawn evenly from the whole corpus.
        seed: which documents are drawn for training the vocabulary.
        min_frequency: a pair of pieces is merged only if it occurs this often.
        alphabet: wordpiece only: at most this many different characters, the most frequent ones; others become
            [UNK]. At 1000 more are taken where these cover less than 99.95 percent of the text.
    """

    kind: Literal["wordpiece", "bpe"] = "wordpiece"
    path: str | None = None
    lowercase: bool | None = None
    vocab_size: int = 30522
    sample_bytes: int = 100_000_000
    seed: int = 0
    min_frequency: int = 2
    alphabet: int = 1000

    @property
    def lowers(self) -> bool:
        """Whether text is lower-cased."""
        return self.kind == "wordpiece" if self.lowercase is None else self.lowercase


@dataclasses.dataclass
class CleanConfig:
    """What happens to a document's text before it is tokenized.

    Args:
        unicode: Unicode normal form: NFC, NFKC, or none.
        whitespace: turn runs of blanks into one blank, drop blank lines and control characters.
        min_chars: drop documents with fewer characters after cleaning (empty ones are always dropped).
        max_chars: drop documents with more characters after cleaning.
        deduplicate: keep only the first of documents whose cleaned text is the same.
        near_duplicates: drop a document that MinHash finds at about this Jaccard similarity (of its five-word
            shingles) or above to an earlier one; left out, only equal documents are dropped.
        filters: quality filters to apply, by name, in this order (docs/data.md describes what each removes).
        language: keep only documents in this language (an ISO 639-1 code such as en); left out, all stay.
    """

    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    whitespace: bool = True
    min_chars: int = 1
    max_chars: int = 5_000_000
    deduplicate: bool = True
    near_duplicates: float | None = None
    filters: list[FilterName] = dataclasses.field(default_factory=list)
    language: str | None = None


@dataclasses.dataclass
class BuildConfig:
    """Everything that decides what a store holds.

    Args:
        out: the store to make: a folder, or s3://bucket/prefix.
        sources: where the documents come from, in order.
        tokenizer: a new or an existing vocabulary.
        clean: cleaning and de-duplication.
        held_out: share of the documents, chosen by a hash of their text, that goes to the split heldout.
        ids_type: integer type of token ids: auto (the smallest that fits), uint16 or uint32.
        task_bytes: bytes of input per unit of work; each unit becomes one shard per split.
        workers: processes; one per core when left out. Any number gives the same bytes.
        engine: processes (this machine), mpi (start it under mpirun or srun), or auto: mpi when an MPI launcher
            started more than one process.
        memory: most bytes that the step between reading and tokenizing (de-duplication, choice of the
            vocabulary's sample) holds at once; a larger corpus takes more passes, not more memory.
        most_left_out: a source of which more than this share of the records gives no text is refused: lines that are
            not JSON or not UTF-8, records without the field, empty ones. What cleaning drops does not count.
        mixture: weight of each source label in training, by samples drawn; left out, every document once an epoch.
            A recipe's data.mixture wins over it.
    """

    out: str = ""
    sources: list[SourceConfig] = dataclasses.field(default_factory=list)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    clean: CleanConfig = dataclasses.field(default_factory=CleanConfig)
    held_out: float = 0.01
    ids_type: IdsType = "auto"
    task_bytes: int = 32 << 20
    workers: int | None = None
    engine: Literal["auto", "processes", "mpi"] = "auto"
    memory: int = 1 << 30
    most_left_out: float = 0.05
    mixture: dict[str, float] = dataclasses.field(default_factory=dict)


def check_config(config: BuildConfig) -> None:
    """Refuse settings that can't work, before anything starts.

    Raises:
        UserError: naming the key, its value and what would be right.
    """
    _check_out(config.out)
    _need(bool(config.sources), "sources", config.sources, "a list with at least one source")
    _need(0 <= config.held_out < 1, "held_out", config.held_out, "at least 0 and below 1")
    _need(config.task_bytes >= 1024, "task_bytes", config.task_bytes, "at least 1024")
    _need(config.workers is None or config.workers >= 1, "workers", config.workers, "at least 1")
    _need(config.memory >= 1 << 20, "memory", config.memory, "at least 1048576 bytes (1 MiB)")
    _need(0 <= config.most_left_out <= 1, "most_left_out", config.most_left_out, "between 0 and 1")
    tokenizer = config.tokenizer
    _need(tokenizer.vocab_size >= 32, "tokenizer.vocab_size", tokenizer.vocab_size, "at least 32")
    _need(tokenizer.sample_bytes >= 1, "tokenizer.sample_bytes", tokenizer.sample_bytes, "at least 1")
    _need(tokenizer.min_frequency >= 1, "tokenizer.min_frequency", tokenizer.min_frequency, "at least 1")
    _need(tokenizer.alphabet >= 1, "tokenizer.alphabet", tokenizer.alphabet, "at least 1")
    _need(0 <= tokenizer.seed < 1 << 64, "tokenizer.seed", tokenizer.seed, "a whole number below 2**64")
    if tokenizer.kind == "bpe":
        alphabet = TokenizerConfig.alphabet
        _need(tokenizer.path is None, "tokenizer.path", tokenizer.path, "left out for kind bpe, which trains a new one")
        _need(
            tokenizer.alphabet == alphabet, "tokenizer.alphabet", tokenizer.alphabet, "left out for kind bpe (of bytes)"
        )
    _check_clean(config.clean)
    for index, source in enumerate(config.sources):
        _check_source(source, f"sources[{index}]")
    labels = list(dict.fromkeys(source.label for source in config.sources))
    for label, weight in config.mixture.items():
        key = f"mixture.{label}"
        if label not in labels:
            raise UserError(f"{key}: no source has the label {label!r}: {nearest(label, labels)}")
        _need(0 < weight < float("inf"), key, weight, "above 0 (leave out the sources that should not be drawn)")
    if config.mixture:
        for label in labels:
            _need(label in config.mixture, "mixture", config.mixture, f"a weight for every label, {label!r} too")


def _need(condition: bool, key: str, value: object, wanted: str) -> None:
    if not condition:
        raise UserError(f"{key} is {value!r}: it must be {wanted}")


def _check_out(out: str) -> None:
    _need(bool(out), "out", out, "the folder of the store to make, or s3://bucket/prefix")
    if is_object_store(out):
        split_s3_url(out)
    elif "://" in out:
        raise UserError(f"out is {out!r}: it must be a folder or s3://bucket/prefix")


def _check_clean(clean: CleanConfig) -> None:
    _need(clean.min_chars >= 0, "clean.min_chars", clean.min_chars, "at least 0")
    _need(clean.max_chars >= max(1, clean.min_chars), "clean.max_chars", clean.max_chars, "at least min_chars")
    similarity = clean.near_duplicates
    _need(
        similarity is None or 0 < similarity < 1,
        "clean.near_duplicates",
        similarity,
        "between 0 and 1, such as 0.8 (equal documents are dropped by clean.deduplicate)",
    )
    names = list(get_args(FilterName))
    for name in clean.filters:
        if name not in names:
            raise UserError(f"clean.filters: no filter is called {name!r}: {nearest(str(name), names)}")
    _need(len(set(clean.filters)) == len(clean.filters), "clean.filters", clean.filters, "a list of different filters")
    _need(clean.language != "", "clean.language", clean.language, "an ISO 639-1 code such as en, or left out")


def _check_source(source: SourceConfig, key: str) -> None:
    named = bool(source.label.strip()) and source.label.isprintable()
    _need(named, f"{key}.label", source.label, "a printable name, or left out")
    if source.kind == "datasets":
        _need(bool(source.name), f"{key}.name", source.name, "a data set's name or folder")
        _need(not source.paths, f"{key}.paths", source.paths, "left out for kind datasets (use name)")
        return
    _need(bool(source.paths), f"{key}.paths", source.paths, "a list of files, folders or globs")
    _need(source.name is None, f"{key}.name", source.name, f"left out for kind {source.kind} (use paths)")
    for path in source.paths:
        if is_object_store(path):
            split_s3_key(path)
        else:
            _need(
                bool(path) and "://" not in path,
                f"{key}.paths",
                path,
                "a file, folder or glob, on this machine or below s3://bucket/",
            )


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Parse the YAML file of a build and refuse what the command line's parser would take without a word.

    Raises:
        UserError: the file cannot be read, a key is unknown (the message names the nearest valid one), or a value
            has the wrong shape.
    """
    where = f"configuration {path}"
    content = read_settings(path, BuildConfig, where)
    if "filters" in content.get("clean", {}):
        _check_strings(content["clean"]["filters"], "clean.filters", "[words, stop_words]", where)
    for index, source in enumerate(content.get("sources", [])):
        _check_strings(source.get("paths", []), f"sources[{index}].paths", "[corpus/*.txt]", where)
    for label, weight in as_mapping(content.get("mixture", {}), "mixture", where).items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise UserError(
                f"{where}: mixture.{label} must be a number, such as mixture: {{main: 1.0}}, not {weight!r}"
            )
    return content


def _check_strings(value: object, key: str, example: str, where: str) -> None:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        name = key.rsplit(".", 1)[-1]
        raise UserError(f"{where}: {key} must be a list of strings, such as {name}: {example}, not {value!r}")
