"""Packing: which tokens make up row r of a shard, in closed form.

The documents of a split of a shard are read as one stream in which two positions, [SEP] [CLS], stand between
neighbours. Row r holds the S - 2 stream positions from r (S - 2) on, between a [CLS] and a [SEP] of its own. A row may
so hold the end of one document, whole documents and the beginning of another, each a segment of its own. Separators
that fall on the edge of a row are dropped, since the row brings its own, so hardly anything is padded.

``stream`` packing keeps the documents in the shard's order. ``greedy`` packing reorders them inside windows so that few
are cut; a window keeps its place in the stream. So the number of rows follows from the numbers of documents and tokens,
and the content of a row from the documents' lengths and those of one window: no scan, no replay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Packing = Literal["greedy", "stream"]

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
    """Rows of S positions that a shard with so many documents and tokens gives, however they are packed."""
    if documents == 0:
        return 0
    stream = tokens + SEPARATOR * (documents - 1)
    return -(-stream // (sequence_length - 2))


class PackedShard:
    """A shard as rows of S positions.

    ``ids`` (tokens,) its flat tokens and ``offsets`` (documents + 1,) its documents' bounds in them; greedy packing
    chooses from ``window`` documents. With ``attend_across`` all of a row is one segment. Several threads may read from
    one: a window is planned by whoever needs it first, and two that plan it at once write the same.
    """

    def __init__(
        self,
        ids: NDArray[np.unsignedinteger],
        offsets: NDArray[np.int64],
        sequence_length: int,
        special: SpecialTokens,
        packing: Packing = "greedy",
        window: int = 1024,
        attend_across: bool = False,
    ) -> None:
        # Slices of a plain array are several times cheaper than those of numpy's memory map, and see the same memory.
        self.ids = np.asarray(ids)
        self.offsets = np.ascontiguousarray(offsets, dtype=np.int64)
        self.sequence_length = sequence_length
        self.special = special
        self.attend_across = attend_across
        self.window = window
        self.documents = len(self.offsets) - 1
        self.rows = row_count(self.documents, int(self.offsets[-1]), sequence_length)
        self._capacity = sequence_length - 2
        self._length = int(self.offsets[-1]) + SEPARATOR * (self.documents - 1)
        narrow: type[np.int32 | np.int64] = np.int32 if self._length < 2**31 else np.int64
        # Stream position of the i-th document of the stream, and which document that is. A window's entries change when
        # it is planned, but not where it begins and ends, so a search finds the right window before and after.
        self._starts = (self.offsets[:-1] + SEPARATOR * np.arange(self.documents)).astype(narrow)
        self._order = np.arange(self.documents).astype(narrow)
        self._planned = bytearray([packing == "stream"]) * -(-self.documents // window)
        # Rows of a batch lie in many shards, a few in each: there, plain numbers are quicker than small arrays.
        self._start_of = self._starts.data
        self._document_at = self._order.data
        self._bounds = self.offsets.data

    def read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids (n, S) and segments (n, S), -1 where padded, of ``rows`` (n,).

        Raises IndexError for a row that the shard does not have.
        """
        return read_rows([self] * len(rows), rows, self.sequence_length)

    def pieces(self, row: int) -> list[tuple[int, int]]:
        """The tokens of a row as (first, count) of each document's run; IndexError if there is no such row."""
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of a shard with {self.rows}")
        begin = row * self._capacity
        end = begin + self._capacity
        place = bisect_right(self._start_of, begin) - 1
        if not self._planned[place // self.window]:
            self._plan(place // self.window)
        # This thread or another may have planned the window since the search.
        following = place + 1
        if self._start_of[place] > begin or (following < self.documents and self._start_of[following] <= begin):
            place = bisect_right(self._start_of, begin) - 1
        found = []
        while place < self.documents:
            if not self._planned[place // self.window]:
                self._plan(place // self.window)
            start = self._start_of[place]
            if start >= end:
                break
            document = self._document_at[place]
            bound = self._bounds[document]
            first = max(begin - start, 0)
            last = min(end - start, self._bounds[document + 1] - bound)
            # Where a row begins or ends between documents, or a document is empty, nothing is left of it.
            if first < last:
                found.append((bound + first, last - first))
            place += 1
        return found

    def _plan(self, window: int) -> None:
        first = window * self.window
        last = min(first + self.window, self.documents)
        lengths = np.diff(self.offsets[first : last + 1])
        begin = int(self.offsets[first]) + SEPARATOR * first
        order = np.array(greedy_order(lengths, self._capacity, begin % self._capacity), dtype=np.int64)
        taken = lengths[order] + SEPARATOR
        self._starts[first:last] = begin + np.cumsum(taken) - taken
        self._order[first:last] = first + order
        self._planned[window] = 1


def greedy_order(lengths: NDArray[np.int64], capacity: int, filled: int) -> list[int]:
    """Documents of a window in the order that cuts few of them, as indices into ``lengths`` (documents,).

    The first row has ``filled`` of its ``capacity`` positions taken. Of the documents left, the longest that fits in
    what is left of the row is next; where none fits, the longest of all, which goes on in the next row.
    """
    # Documents by length, of equal ones the first on top; and a bit for each length up to a row that is still there.
    waiting: list[list[int]] = [[] for _ in range(capacity + 1)]
    there = 0
    longer: list[int] = []
    for document in np.lexsort((-np.arange(len(lengths)), lengths)).tolist():
        length = int(lengths[document])
        if length > capacity:
            longer.append(document)
        else:
            waiting[length].append(document)
            there |= 1 << length
    order = []
    position = filled
    for _ in range(len(lengths)):
        room = capacity - position % capacity
        fitting = there & ((2 << room) - 1)
        if fitting or not longer:
            length = (fitting or there).bit_length() - 1
            document = waiting[length].pop()
            if not waiting[length]:
                there &= ~(1 << length)
        else:
            document = longer.pop()
        order.append(document)
        position += int(lengths[document]) + SEPARATOR
    return order


def read_rows(
    shards: Sequence[PackedShard], rows: NDArray[np.int64], sequence_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids (n, S) and segments (n, S), -1 where padded, of ``rows`` (n,), each of the shard at its index."""
    number = len(rows)
    ids = np.zeros(number * sequence_length, dtype=np.int64)
    if number == 0:
        return ids.reshape(0, sequence_length), ids.reshape(0, sequence_length)
    special, attend_across = shards[0].special, shards[0].attend_across
    counts = []
    begins = []
    sizes = []
    for index, (shard, row) in enumerate(zip(shards, rows.tolist(), strict=True)):
        place = index * sequence_length
        pieces = shard.pieces(row)
        for first, count in pieces:
            ids[place + 1 : place + 1 + count] = shard.ids[first : first + count]
            begins.append(place)
            sizes.append(count + 2)
            place += count + 2
        counts.append(len(pieces))
        ids[place : (index + 1) * sequence_length] = special.pad
    begin, size, count_of = (np.array(part, dtype=np.int64) for part in (begins, sizes, counts))
    ids[begin] = special.cls
    ids[begin + size - 1] = special.sep
    # A row is its pieces and then a run of padding, which may be empty.
    row_of = np.repeat(np.arange(number), count_of)
    piece = np.arange(len(row_of))
    past = np.cumsum(count_of)
    runs = np.empty(len(row_of) + number, dtype=np.int64)
    segments = np.empty_like(runs)
    runs[piece + row_of] = size
    segments[piece + row_of] = 0 if attend_across else piece - (past - count_of)[row_of]
    rest = past + np.arange(number)
    runs[rest] = sequence_length - np.bincount(row_of, weights=size, minlength=number).astype(np.int64)
    segments[rest] = PADDING
    shape = (number, sequence_length)
    return ids.reshape(shape), np.repeat(segments, runs).reshape(shape)
