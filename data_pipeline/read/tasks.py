"""Tasks: the inputs divided by their content alone, whatever the number of workers; and what reading one counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from data_pipeline.config import SourceConfig
from data_pipeline.read.hub import describe_dataset
from data_pipeline.read.inputs import Input, compression_of
from data_pipeline.read.parquet import parquet_metadata
from data_pipeline.read.reasons import Reason

# How many compressed files share a task is decided before they are unpacked.
TYPICAL_COMPRESSION = 3


@dataclasses.dataclass
class ReadCounts:
    """Counts of what was read; ``bytes_read`` is uncompressed bytes: whole lines of text and JSON Lines.

    ``oversized`` counts lines and documents too long to be held; ``skipped`` a dump's pages that are not articles:
    other namespaces, redirects, empty ones. ``records`` counts what could have given text: lines of text and of JSON
    Lines, rows, articles. ``left_out`` has those that gave none, by file and reason, with their number and where the
    first one is; ``location`` is the file that is being read.
    """

    documents_read: int = 0
    bytes_read: int = 0
    bad_lines: int = 0
    oversized: int = 0
    skipped: int = 0
    records: int = 0
    location: str = dataclasses.field(default="", compare=False)
    left_out: dict[tuple[str, Reason], tuple[int, str]] = dataclasses.field(default_factory=dict, compare=False)

    def leave_out(self, reason: Reason, example: str) -> None:
        """Count a record of the current file that gives no text; ``example`` says where it is, and what it has."""
        count, first = self.left_out.get((self.location, reason), (0, example))
        self.left_out[self.location, reason] = (count + 1, first)
        if reason == "oversized":
            self.oversized += 1
        elif reason != "empty":
            self.bad_lines += 1


@dataclasses.dataclass(frozen=True)
class Piece:
    """The range [begin, end) of one input: bytes, row groups (Parquet) or rows (data sets)."""

    location: str
    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class Task:
    """One unit of work: consecutive pieces of one source. ``index`` is its place in canonical order."""

    index: int
    source: int
    pieces: tuple[Piece, ...]


def plan_tasks(sources: Sequence[SourceConfig], inputs: Sequence[Input], task_bytes: int) -> list[Task]:
    """Divide the inputs into tasks of about ``task_bytes`` bytes each, by content alone.

    Raises:
        UserError: a Parquet file can't be read or lacks the text column.
    """
    tasks: list[Task] = []
    for index, source in enumerate(sources):
        group: list[Piece] = []
        weight = 0
        for entry in (entry for entry in inputs if entry.source == index):
            for piece, size in _pieces(source, entry, task_bytes):
                # Many small files share a task; a large one fills several.
                if group and weight + size > task_bytes:
                    tasks.append(Task(len(tasks), index, tuple(group)))
                    group, weight = [], 0
                group.append(piece)
                weight += size
        if group:
            tasks.append(Task(len(tasks), index, tuple(group)))
    return tasks


def _pieces(source: SourceConfig, entry: Input, task_bytes: int) -> Iterator[tuple[Piece, int]]:
    path = entry.location
    if source.kind == "datasets":
        info = describe_dataset(source)
        per_task = max(1, int(task_bytes / max(1.0, info.bytes_per_row)))
        for begin in range(0, info.rows, per_task):
            end = min(begin + per_task, info.rows)
            yield Piece(path, begin, end), task_bytes
    elif source.kind == "parquet":
        metadata = parquet_metadata(path, source.field)
        for group in range(metadata.num_row_groups):
            yield Piece(path, group, group + 1), metadata.row_group(group).total_byte_size
    elif compression_of(path):
        # A compressed stream can't be entered in the middle.
        yield Piece(path, 0, entry.size), entry.size * TYPICAL_COMPRESSION
    elif source.kind == "wikipedia" or (source.kind == "text" and source.documents == "file"):
        yield Piece(path, 0, entry.size), entry.size
    else:
        for begin in range(0, entry.size, task_bytes):
            end = min(begin + task_bytes, entry.size)
            yield Piece(path, begin, end), end - begin
