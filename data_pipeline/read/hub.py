"""Hugging Face data sets: the only module that opens them."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.places.plain_path import plain_path
from data_pipeline.read.parquet import values

_BATCH_ROWS = 1000
# Whose bytes are checked without the encoding, which costs single rows only.
_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What planning needs to know of a data set's split."""

    name: str
    rows: int
    bytes_per_row: float
    fingerprint: str


def describe_dataset(source: SourceConfig) -> DatasetInfo:
    """Open a data set and describe it.

    Raises:
        UserError: it can't be loaded, or lacks the split or the text column.
    """
    data = _open(str(source.name), source.config, source.split, source.field)
    name = "/".join(filter(None, [Path(str(source.name)).name, source.config, source.split]))
    size = sum(batch.nbytes for batch in data.data.table.to_batches(max_chunksize=None))
    return DatasetInfo(name, len(data), size / max(1, len(data)), data._fingerprint)


def dataset_texts(source: SourceConfig, begin: int, end: int) -> Iterator[object]:
    """The text field of rows [begin, end), as stored; None for a string that is not UTF-8.

    Raises:
        pyarrow.ArrowException: the data set's files are damaged.
    """
    data = _open(str(source.name), source.config, source.split, source.field).with_format("arrow")
    for start in range(begin, end, _BATCH_ROWS):
        for chunk in data[start : min(start + _BATCH_ROWS, end)].column(source.field).chunks:
            # Files are mapped into memory as they are, and damaged offsets would lead outside of them.
            as_bytes = _BYTES.get(chunk.type)
            (chunk if as_bytes is None else chunk.view(as_bytes)).validate(full=True)
            yield from values(chunk)


def stream_texts(name: str, config: str, split: str, field: str) -> Iterator[str]:
    """Texts of a hub data set in order, downloaded only as far as they are read.

    Raises:
        UserError: the data set can't be reached or read.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        for row in datasets.load_dataset(name, config, split=split, streaming=True):
            yield str(row[field])
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"cannot read data set {name} from the hub: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    # Of these the message alone is a name or a riddle.
    return f"{type(error).__name__}: {line}" if isinstance(error, LookupError | AttributeError | TypeError) else line


def _reason(error: BaseException) -> str:
    """What went wrong, and what caused it: the library often hides that behind a sentence of its own."""
    cause = error
    while (before := cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)) is not None:
        cause = before
    first, last = _first_line(error), _first_line(cause)
    return first if last in first else f"{first.rstrip('.')}: {last}"


@functools.lru_cache(maxsize=8)
def _open(name: str, config: str | None, split: str, field: str) -> Any:
    import datasets  # takes seconds to import, and most builds read plain files

    folder = Path(name)
    datasets.disable_progress_bars()
    try:
        saved = (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()
        if saved:
            with plain_path(folder) as plain:
                loaded = datasets.load_from_disk(str(plain))
            if isinstance(loaded, datasets.DatasetDict):
                if split not in loaded:
                    raise UserError(f"{name} has no split {split!r}: it has {', '.join(loaded)}")
                loaded = loaded[split]
        else:
            if folder.is_dir() and re.search(r"[*?\[]|::", str(folder.resolve())):
                raise UserError(
                    f"data set {name!r}: the library datasets takes characters of this folder's path (*, ?, [ or ::) "
                    "for a pattern: rename the folder, or give its files as a source of another kind"
                )
            loaded = datasets.load_dataset(name, config, split=split)
    except UserError:
        raise
    except Exception as error:  # a damaged folder gives all kinds of them
        advice = (
            "check the folder, config and split" if folder.exists() else "check the name, or the connection to the hub"
        )
        raise UserError(
            f"cannot load data set {name!r} (config {config!r}, split {split!r}): {_reason(error)}; {advice}"
        ) from error
    if field not in loaded.column_names:
        raise UserError(f"data set {name!r} has no column {field!r}: it has {', '.join(loaded.column_names)}")
    kind = getattr(loaded.features[field], "dtype", None)
    if kind not in ("string", "large_string", "string_view"):
        raise UserError(
            f"data set {name!r}: column {field!r} holds {kind or loaded.features[field]}, not text: "
            f"set field to one of {', '.join(loaded.column_names)}"
        )
    # A format that was chosen for training gives arrays or tensors instead of strings.
    return loaded.with_format(None).select_columns([field])
