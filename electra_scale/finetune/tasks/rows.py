"""Rows as they lie in files: a folder in the plain layout, JSON lines, CSV or Parquet, or a name of ``datasets``."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from data_pipeline.errors import UserError, first_line
from data_pipeline.json_lines import json_objects
from electra_scale.finetune.tasks.task import Hub, Task

SPLITS = ("train", "validation", "test")

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = (".jsonl", ".json", *_SEPARATORS, ".parquet")

_LONGEST_FIELD = 1 << 27
"""Characters of a field of a CSV file; Python's own limit of 131,072 is less than some documents have."""

csv.field_size_limit(_LONGEST_FIELD)


@dataclass(frozen=True)
class Rows:
    """The rows of one split: dictionaries from column to value, and where they come from, for messages."""

    where: str
    rows: Sequence[Mapping[str, Any]]

    def name(self, index: int) -> str:
        """What a message calls a row; rows are counted from 1, without a header."""
        return f"{self.where}, row {index + 1}"


@dataclass(frozen=True)
class Source:
    """Where a task's rows are: in ``folder`` (the plain layout), in ``files`` by split, or in the ``dataset`` of a name
    with a configuration after a colon. All empty: the task's own name for ``datasets``."""

    folder: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    dataset: str | None = None

    def read(self, task: Task) -> dict[str, Rows]:
        """The splits that are there, as they are.

        Raises:
            UserError: there is no such place, or a file cannot be read.
        """
        if self.files:
            return {split: read_file(path) for split, path in self.files.items()}
        if self.folder is not None:
            return _read_folder(self.folder, task)
        hub = task.hub
        if self.dataset is not None:
            name, _, configuration = self.dataset.partition(":")
            hub = Hub(name, configuration or None)
        if hub is None:
            raise UserError(
                f"task {task.name} needs its rows: give --data FOLDER with {task.name}/train.jsonl.gz and so on, or "
                "--train and --validation with files, or --dataset with a name of the datasets library"
            )
        return _read_dataset(hub, task)


def _read_folder(folder: Path, task: Task) -> dict[str, Rows]:
    if not folder.is_dir():
        raise UserError(f"--data {folder} is no folder; give one with a folder for each task")
    names = (task.name, *task.folders)
    home = next((folder / name for name in names if (folder / name).is_dir()), None)
    if home is None:
        if not any(_file_of(folder, split) for split in SPLITS):
            tasks = sorted(path.name for path in folder.iterdir() if path.is_dir())
            has = f"it has {', '.join(tasks)}" if tasks else "it has no folder at all"
            raise UserError(f"{folder} has no folder {' or '.join(names)} for task {task.name}; {has}")
        home = folder
    found = {split: _file_of(home, split) for split in (*SPLITS, *task.further.values())}
    present = {split: read_file(path) for split, path in found.items() if path is not None}
    if not present:
        raise UserError(f"{home} has no train, validation or test with one of the endings {', '.join(_SUFFIXES)} (.gz)")
    return present


def _file_of(folder: Path, split: str) -> Path | None:
    names = (f"{split}{suffix}{packed}" for suffix in _SUFFIXES for packed in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_dataset(hub: Hub, task: Task) -> dict[str, Rows]:
    import datasets

    datasets.utils.logging.set_verbosity_error()
    label = hub.name + (f":{hub.configuration}" if hub.configuration else "")
    try:
        loaded = datasets.load_dataset(hub.name, hub.configuration)
    except Exception as error:  # the library raises its own, its HTTP client's, pyarrow's and the system's errors
        raise UserError(
            f"data set {label} cannot be had through the datasets library ({first_line(error)}); give --data FOLDER "
            "or files that are on this machine"
        ) from error
    renamed = {hub.columns.get(role, column): column for role, column in task.columns.items()}
    found = {}
    for split in (*SPLITS, *task.further.values()):
        data = loaded.get(hub.splits.get(split, split))
        if data is not None:
            names = _names_of_classes(data.features)
            rows = [_named(row, names, texts=task.labels is None) for row in data]
            rows = [{renamed.get(key, key): value for key, value in row.items()} for row in rows]
            found[split] = Rows(f"{label} {split}", rows)
    return found


def _names_of_classes(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Columns that hold ids of named classes, alone or in lists, with the names."""
    found = {}
    for column, feature in features.items():
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names:
            found[column] = list(names)
    return found


def _named(row: Mapping[str, Any], names: Mapping[str, list[str]], texts: bool) -> dict[str, Any]:
    """Classes by their names, not ids. Those of ``texts`` keep the id where we have names of our own."""

    def named(column: str, value: Any) -> Any:
        if column in names and isinstance(value, list):
            return [names[column][tag] for tag in value]
        # -1 means that the class is hidden.
        return names[column][value] if texts and column in names and value is not None and value >= 0 else value

    return {column: named(column, value) for column, value in row.items()}


def read_file(path: Path) -> Rows:
    """The rows of a file of JSON lines, CSV, TSV or Parquet, also compressed by gzip.

    Raises:
        UserError: there is no such file, its kind is unknown, or it is damaged, with the line.
    """
    name = path.name.removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix not in _SUFFIXES:
        raise UserError(f"{path} has an unknown ending; name it {', '.join(_SUFFIXES)}, or one of these with .gz")
    if suffix == ".parquet":
        return Rows(str(path), _parquet(path))
    try:
        with _opened(path) as file:
            rows = list(_csv(file, _SEPARATORS[suffix], path) if suffix in _SEPARATORS else json_objects(file, path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 (byte {error.start}); write it in UTF-8") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged or not whole ({error}); fetch it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    return Rows(str(path), rows)


def _opened(path: Path) -> IO[str]:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _csv(file: IO[str], separator: str, path: Path) -> Iterator[dict[str, Any]]:
    reader = csv.reader(file, delimiter=separator)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise UserError(f"{path} has two columns {twice!r}; give each column a name of its own")
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num} has {len(fields)} fields, its header {len(header)}; put fields "
                    "with separators or line ends into quotation marks"
                )
            yield dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num} is not CSV ({error})") from error


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pylist()
    except FileNotFoundError as error:
        raise UserError(f"{path} cannot be read (No such file or directory); check the path") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read as Parquet ({first_line(error)}); fetch or write it again") from error
