"""Hugging Face data sets: the only module that opens them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError

_BATCH_ROWS = 1000


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
    """The text field of rows [begin, end), as stored."""
    data = _open(str(source.name), source.config, source.split, source.field)
    for start in range(begin, end, _BATCH_ROWS):
        yield from data[start : min(start + _BATCH_ROWS, end)][source.field]


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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@functools.lru_cache(maxsize=8)
def _open(name: str, config: str | None, split: str, field: str) -> Any:
    import datasets  # takes seconds to import, and most builds read plain files

    folder = Path(name)
    datasets.disable_progress_bars()
    try:
        saved = (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()
        if saved:
            loaded = datasets.load_from_disk(name)
            if isinstance(loaded, datasets.DatasetDict):
                if split not in loaded:
                    raise UserError(f"{name} has no split {split!r}: it has {', '.join(loaded)}")
                loaded = loaded[split]
        else:
            loaded = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # A hub that can't be reached, a wrong name and a wrong split all arrive as one of these.
        raise UserError(
            f"cannot load data set {name!r} (config {config!r}, split {split!r}): {_first_line(error)}; "
            "check the name, or the connection to the hub"
        ) from error
    if field not in loaded.column_names:
        raise UserError(f"data set {name!r} has no column {field!r}: it has {', '.join(loaded.column_names)}")
    return loaded.select_columns([field])
