"""Packing: which tokens make up row r of a shard, in closed form.

The documents of a split of a shard are read as one stream in which two positions, [SEP] [CLS], stand between
neighbours. Row r holds the S - 2 stream positions from r (S - 2) on, between a [CLS] and a [SEP] of its own. A row may
so hold the end of one document, whole documents and the beginning of another, each a segment of its own, and the
number of rows and the content of any of them follow from the document lengths alone: no scan, no replay, and hardly
any padding. Separators that fall on the edge of a row are dropped, since the row brings its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEPARATOR = 2
"""Stream positions between two documents: the [SEP] of the one and the [CLS] of the next."""

PADDING = -1
"""Segment of a padding position."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that packing and masking need."""

    pad: int
    cls: int
    sep: int
    mask: int

    def ids(self) -> NDArray[np.int64]:
        return np.array([self.pad, self.cls, self.sep, self.mask], dtype=np.int64)


def row_count(documents: int, tokens: int, sequence_length: int) -> int:
    """Rows of S positions that a shard with so many documents and tokens gives."""
    if documents == 0:
        return 0
    stream = tokens + SEPARATOR * (documents - 1)
    return -(-stream // (sequence_length - 2))


def stream_starts(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Stream position at which each document starts, from the shard's ``offsets`` (documents + 1)."""
    return offsets[:-1] + SEPARATOR * np.arange(len(offsets) - 1, dtype=np.int64)


def read_row(
    ids: NDArray[np.unsignedinteger],
    offsets: NDArray[np.int64],
    starts: NDArray[np.int64],
    row: int,
    sequence_length: int,
    special: SpecialTokens,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row ``row`` of a shard: token ids (S,) and segments (S,), -1 where padded.

    ``ids`` is the shard's flat token array, ``offsets`` its documents' bounds in it, ``starts`` from
    :func:`stream_starts`. Raises IndexError for a row that the shard does not have.
    """
    capacity = sequence_length - 2
    begin = row * capacity
    length = int(offsets[-1]) + SEPARATOR * (len(offsets) - 2)
    if not 0 <= begin < length:
        raise IndexError(f"row {row} of a shard with {row_count(len(starts), int(offsets[-1]), sequence_length)}")
    end = min(begin + capacity, length)
    row_ids = np.full(sequence_length, special.pad, dtype=np.int64)
    segments = np.full(sequence_length, PADDING, dtype=np.int64)
    position = 0
    segment = 0
    document = int(np.searchsorted(starts, begin, side="right")) - 1
    while document < len(starts) and starts[document] < end:
        size = int(offsets[document + 1] - offsets[document])
        first = max(begin - int(starts[document]), 0)
        last = min(end - int(starts[document]), size)
        if first < last:
            stop = position + (last - first) + 2
            row_ids[position] = special.cls
            row_ids[position + 1 : stop - 1] = ids[offsets[document] + first : offsets[document] + last]
            row_ids[stop - 1] = special.sep
            segments[position:stop] = segment
            position, segment = stop, segment + 1
        document += 1
    return row_ids, segments
