"""Packing: which tokens make up row r of a shard, in closed form.

The documents of a shard are read as one stream in which two positions, [SEP] [CLS], stand between neighbours. Row r
holds the S - 2 stream positions from r (S - 2) on, between a [CLS] and a [SEP] of its own. So a row may hold the end of
one document, whole documents and the start of another, each a segment of its own. Separators that fall on the edge of a
row are dropped, since the row has its own, so hardly anything is padded.

``stream`` packing keeps the documents in the shard's order. ``greedy`` packing reorders them inside windows so that few
are cut; a window keeps its place in the stream. So the number of rows follows from the numbers of documents and tokens,
and the content of a row from the bounds of the documents and the order inside one window. No other row has to be read
first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from data_pipeline.tokenize.roles import Roles
from electra_scale.data.order import Places
from electra_scale.recipe.data import DataConfig

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

    @classmethod
    def of(cls, tokenizer: Tokenizer, roles: Roles) -> SpecialTokens:
        """Those of a tokenizer."""
        names = (roles.pad, roles.cls, roles.sep, roles.mask)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        return cls(*(vocabulary[name] for name in names))

    def ids(self) -> NDArray[np.int64]:
        return np.array([self.pad, self.cls, self.sep, self.mask], dtype=np.int64)


def row_count(documents: int, tokens: int, sequence_length: int) -> int:
    """Number of rows of S positions that a shard of ``documents`` and ``tokens`` gives, however they are packed."""
    if documents == 0:
        return 0
    stream = tokens + SEPARATOR * (documents - 1)
    return -(-stream // (sequence_length - 2))


class PackedShard:
    """A shard as rows of S positions.

    ``ids`` (tokens,) its flat tokens and ``offsets`` (documents + 1,) its documents' bounds in them; ``config`` has the
    sequence length, the packing and its window, and whether attention crosses documents, which makes a row one segment.
    Several threads may read from one shard: a window is planned by the first thread that needs it, and two that plan it
    at once write the same.
    """

    def __init__(
        self,
        ids: NDArray[np.unsignedinteger],
        offsets: NDArray[np.int64],
        special: SpecialTokens,
        config: DataConfig,
    ) -> None:
        # Slices of a plain array are several times cheaper than those of numpy's memory map, and see the same memory.
        self.ids = np.asarray(ids)
        self.offsets = np.ascontiguousarray(offsets, dtype=np.int64)
        self.special = special
        self.sequence_length = config.sequence_length
        self.attend_across_documents = config.attend_across_documents
        self.packing_window = config.packing_window
        self.documents = len(self.offsets) - 1
        self.rows = row_count(self.documents, int(self.offsets[-1]), self.sequence_length)
        self._capacity = self.sequence_length - 2
        length = int(self.offsets[-1]) + SEPARATOR * (self.documents - 1)
        narrow: type[np.int32 | np.int64] = np.int32 if length < 2**31 else np.int64
        # Stream position of the i-th document of the stream, and which document that is. Planning a window changes its
        # entries, but not where it starts and ends, so a search finds the right window before and after.
        self._starts = (self.offsets[:-1] + SEPARATOR * np.arange(self.documents)).astype(narrow)
        self._order = np.arange(self.documents).astype(narrow)
        self._planned = bytearray([config.packing == "stream"]) * -(-self.documents // self.packing_window)
        self._all_planned = all(self._planned)

    def pieces(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """What ``rows`` (n,) are made of: for each piece, in order, its index into ``rows``, first token and length.

        A piece is the part of a document that lies in the row. Raises IndexError for a row beyond the shard's.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.rows:
            outside = rows[(rows < 0) | (rows >= self.rows)][0]
            raise IndexError(f"there is no row {outside} in a shard of {self.rows}")
        start_of_row = rows * self._capacity
        end_of_row = start_of_row + self._capacity
        # Read before the search: another thread may plan a window while it is being searched.
        settled = self._all_planned
        first, past = self._between(start_of_row, end_of_row)
        if not settled:
            self._plan_missing(first // self.packing_window, (past - 1) // self.packing_window)
            first, past = self._between(start_of_row, end_of_row)
        counts = past - first
        row = np.repeat(np.arange(len(rows)), counts)
        place = np.arange(len(row)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        document = self._order[place]
        start = self._starts[place]
        bound = self.offsets[document]
        skipped = np.maximum(start_of_row[row] - start, 0)
        length = np.minimum(end_of_row[row] - start, self.offsets[document + 1] - bound) - skipped
        # A row that starts or ends between two documents, or an empty document, gives pieces without a token.
        kept = length > 0
        return row[kept], (bound + skipped)[kept], length[kept]

    def _between(self, start: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For stream positions from ``start`` to ``end`` (n,): the first document there, and the one past the last."""
        first = np.searchsorted(self._starts, start, side="right") - 1
        return first, np.searchsorted(self._starts, end, side="left")

    def _plan_missing(self, lowest: NDArray[np.int64], highest: NDArray[np.int64]) -> None:
        for low, high in {*zip(lowest.tolist(), highest.tolist(), strict=True)}:
            for window in range(low, high + 1):
                if not self._planned[window]:
                    self._plan(window)
        self._all_planned = all(self._planned)

    def _plan(self, window: int) -> None:
        first = window * self.packing_window
        last = min(first + self.packing_window, self.documents)
        lengths = np.diff(self.offsets[first : last + 1])
        start = int(self.offsets[first]) + SEPARATOR * first
        order = np.array(greedy_order(lengths, self._capacity, start % self._capacity), dtype=np.int64)
        taken = lengths[order] + SEPARATOR
        self._starts[first:last] = start + np.cumsum(taken) - taken
        self._order[first:last] = first + order
        self._planned[window] = 1


def greedy_order(lengths: NDArray[np.int64], capacity: int, filled: int) -> list[int]:
    """Documents of a window in the order that cuts few of them, as indices into ``lengths`` (documents,).

    The first row has ``filled`` of its ``capacity`` positions taken. Of the documents left, the longest that fits in
    what is left of the row is next; where none fits, the longest of all, which continues in the next row.
    """
    # Documents by length, the first of equal ones on top, and a bit for each length of which there is still one.
    waiting: list[list[int]] = [[] for _ in range(capacity + 1)]
    lengths_left = 0
    longer: list[int] = []
    for document in np.lexsort((-np.arange(len(lengths)), lengths)).tolist():
        length = int(lengths[document])
        if length > capacity:
            longer.append(document)
        else:
            waiting[length].append(document)
            lengths_left |= 1 << length
    order = []
    position = filled
    for _ in range(len(lengths)):
        room = capacity - position % capacity
        fitting = lengths_left & ((2 << room) - 1)
        if fitting or not longer:
            length = (fitting or lengths_left).bit_length() - 1
            document = waiting[length].pop()
            if not waiting[length]:
                lengths_left &= ~(1 << length)
        else:
            document = longer.pop()
        order.append(document)
        position += int(lengths[document]) + SEPARATOR
    return order


def read_rows(
    shards: Sequence[PackedShard], shard_of: NDArray[np.int64], rows: NDArray[np.int64], sequence_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids (n, S) and segments (n, S), -1 where padded, of ``rows`` (n,), each of ``shards[shard_of]``.

    Raises IndexError for a row that its shard does not have.
    """
    ids = np.empty((len(rows), sequence_length), dtype=np.int64)
    segments = np.empty_like(ids)
    by_shard = np.argsort(shard_of, kind="stable")
    ends = np.cumsum(np.bincount(shard_of, minlength=len(shards))).tolist()
    for shard, low, high in zip(shards, [0, *ends], ends, strict=False):
        chosen = by_shard[low:high]
        ids[chosen], segments[chosen] = _rows_of_shard(shard, rows[chosen])
    return ids, segments


def _rows_of_shard(
    shard: PackedShard, rows: NDArray[np.int64]
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """Rows (n, S) of one shard, put together from runs of positions: pieces with [CLS] and [SEP], and padding."""
    length_of_row = shard.sequence_length
    row, first, length = shard.pieces(rows)
    size = length + 2
    pieces = np.bincount(row, minlength=len(rows))
    past = np.cumsum(pieces)
    number = np.arange(len(row)) - (past - pieces)[row]
    padding = length_of_row - np.bincount(row, weights=size, minlength=len(rows)).astype(np.int64)
    place = row * length_of_row + np.cumsum(size) - size
    place -= (np.cumsum(size) - size)[np.arange(len(row)) - number]
    # Each row's padding is a run behind its pieces, and may be empty.
    at, rest = np.arange(len(row)) + row, past + np.arange(len(rows))
    runs = np.empty(len(row) + len(rows), dtype=np.int64)
    segment, shift = np.full_like(runs, PADDING), np.zeros_like(runs)
    runs[at], runs[rest] = size, padding
    segment[at] = 0 if shard.attend_across_documents else number
    # A token at a position of the block is the shard's token at that position plus the shift of its run.
    shift[at] = first - place - 1
    source = np.repeat(shift, runs)
    source += np.arange(len(source))
    # Positions that hold no token of the shard are overwritten below, so any value may stand there.
    found = np.zeros_like(shard.ids, shape=len(source))
    if len(shard.ids):
        shard.ids.take(source, mode="clip", out=found)
    found[place] = shard.special.cls
    found[place + size - 1] = shard.special.sep
    ids = found.reshape(len(rows), length_of_row)
    for index in np.flatnonzero(padding).tolist():
        ids[index, length_of_row - padding[index] :] = shard.special.pad
    return ids, np.repeat(segment, runs).reshape(ids.shape)


def gather(
    places: Places, open_shard: Callable[[int], PackedShard], sequence_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids (n, S) and segments (n, S), -1 where padded, of the rows at ``places`` (n,), in their order.

    ``open_shard`` is called once for each shard that occurs, with its number in the split, in the order of the places.
    """
    numbers, first, shard_of = np.unique(places.shard, return_index=True, return_inverse=True)
    opened = {int(numbers[index]): open_shard(int(numbers[index])) for index in np.argsort(first)}
    return read_rows([opened[number] for number in numbers.tolist()], shard_of, places.row, sequence_length)
