"""Packing: every token of every document exactly once, in rows that are full and well formed."""

from __future__ import annotations

import threading
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from electra_scale.data.order import Order
from electra_scale.data.rows import PADDING, PackedShard, gather, greedy_order, row_count
from electra_scale.recipe.data import DataConfig

from .conftest import SPECIAL, read_shard_rows

lengths_of_documents = st.lists(st.integers(0, 40), min_size=1, max_size=25)
sequence_lengths = st.integers(3, 40)
packings = st.sampled_from(["greedy", "stream"])
windows = st.integers(1, 12)


def offsets_of(lengths: Any) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def packed(lengths: Any, sequence_length: int, packing: Any = "stream", window: int = 4, **more: Any) -> PackedShard:
    """Documents of the given lengths; the tokens are numbered through, above the special ones."""
    offsets = offsets_of(lengths)
    ids = np.arange(10, 10 + offsets[-1]).astype(np.uint32)
    config = DataConfig(sequence_length=sequence_length, packing=packing, packing_window=window, **more)
    return PackedShard(ids, offsets, SPECIAL, config)


def all_rows(shard: PackedShard) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return read_shard_rows(shard, np.arange(shard.rows))


def pieces(ids: NDArray[np.int64], segments: NDArray[np.int64]) -> list[list[int]]:
    """The tokens of each segment of a row, with [CLS] and [SEP], padding left out."""
    marked = zip(segments.tolist(), ids.tolist(), strict=True)
    return [[token for _, token in part] for segment, part in groupby(marked, lambda pair: pair[0]) if segment >= 0]


def greedy_by_hand(lengths: list[int], room: int, capacity: int) -> list[int]:
    """Documents of a window in their greedy order, by looking at all that are left each time."""
    left = list(range(len(lengths)))
    order = []
    while left:
        fitting = [document for document in left if lengths[document] <= room]
        best = max(fitting or left, key=lambda document: (lengths[document], -document))
        left.remove(best)
        order.append(best)
        for _ in range(lengths[best] + 2):
            room = room - 1 if room > 1 else capacity
    return order


def rows_by_hand(lengths: list[int], sequence_length: int, packing: str, window: int) -> list[list[list[int]]]:
    """Rows as lists of pieces of tokens, by writing the stream out position by position."""
    capacity = sequence_length - 2
    documents = [list(range(10 + first, 10 + last)) for first, last in zip(*bounds(lengths), strict=True)]
    stream: list[tuple[int, int] | None] = []
    for begin in range(0, len(documents), window):
        part = documents[begin : begin + window]
        order = list(range(len(part)))
        if packing == "greedy":
            order = greedy_by_hand([len(one) for one in part], capacity - len(stream) % capacity, capacity)
        for number in order:
            stream += [(begin + number, token) for token in part[number]]
            stream += [None, None]
    stream = stream[:-2]
    rows = [stream[begin : begin + capacity] for begin in range(0, len(stream), capacity)]
    found = []
    for row in rows:
        held = [position for position in row if position is not None]
        found.append([[token for _, token in part] for _, part in groupby(held, lambda position: position[0])])
    return found


def bounds(lengths: list[int]) -> tuple[list[int], list[int]]:
    ends = np.cumsum(lengths).tolist()
    return [end - length for end, length in zip(ends, lengths, strict=True)], ends


def cut_documents(shard: PackedShard) -> int:
    """Documents that lie in more than one row though they would fit in one."""
    rows_of: dict[int, set[int]] = {}
    for row in range(shard.rows):
        _, firsts, _ = shard.pieces(np.array([row]))
        for first in firsts.tolist():
            rows_of.setdefault(int(np.searchsorted(shard.offsets, first, side="right")), set()).add(row)
    fit = np.diff(shard.offsets) <= shard.sequence_length - 2
    return sum(len(rows) > 1 for document, rows in rows_of.items() if fit[document - 1])


@settings(max_examples=400, deadline=None)
@given(lengths=lengths_of_documents, sequence_length=sequence_lengths, packing=packings, window=windows)
@example(lengths=[6], sequence_length=8, packing="stream", window=4)
@example(lengths=[5, 1], sequence_length=8, packing="stream", window=4)
@example(lengths=[4, 6], sequence_length=8, packing="stream", window=4)
@example(lengths=[6, 4, 6], sequence_length=8, packing="greedy", window=2)
@example(lengths=[0, 0, 0, 0, 1], sequence_length=8, packing="greedy", window=4)
@example(lengths=[0, 0, 0], sequence_length=3, packing="greedy", window=1)
def test_rows_are_those_of_the_stream_written_out(
    lengths: list[int], sequence_length: int, packing: str, window: int
) -> None:
    shard = packed(lengths, sequence_length, packing, window)
    expected = rows_by_hand(lengths, sequence_length, packing, window)
    assert shard.rows == len(expected) == row_count(len(lengths), sum(lengths), sequence_length)
    ids, segments = all_rows(shard)
    assert ids.shape == segments.shape == (shard.rows, sequence_length)
    assert ids.dtype == segments.dtype == np.int64
    for row, wanted in enumerate(expected):
        assert pieces(ids[row], segments[row]) == [[SPECIAL.cls, *piece, SPECIAL.sep] for piece in wanted]
        numbers = [number for number, _ in groupby(segments[row].tolist())]
        assert numbers[: len(wanted)] == list(range(len(wanted)))
        # Padding at the end only, and only padding is padded.
        assert numbers[len(wanted) :] in ([], [PADDING])
        assert ((ids[row] == SPECIAL.pad) == (segments[row] == PADDING)).all()


@settings(max_examples=200, deadline=None)
@given(lengths=lengths_of_documents, sequence_length=sequence_lengths, packing=packings, window=windows)
def test_every_token_appears_exactly_once(lengths: list[int], sequence_length: int, packing: str, window: int) -> None:
    shard = packed(lengths, sequence_length, packing, window)
    ids, _ = all_rows(shard)
    tokens = ids[ids >= 10].tolist()
    assert sorted(tokens) == shard.ids.tolist()
    if packing == "stream":
        assert tokens == shard.ids.tolist()
    # Each document keeps its tokens' order.
    place = np.argsort(tokens)
    for first, last in zip(*bounds(lengths), strict=True):
        assert (np.diff(place[first:last]) > 0).all()


@settings(max_examples=100, deadline=None)
@given(
    lengths=lengths_of_documents,
    sequence_length=sequence_lengths,
    packing=packings,
    window=windows,
    seed=st.integers(0, 1000),
)
def test_a_row_is_the_same_whenever_and_with_whatever_it_is_read(
    lengths: list[int], sequence_length: int, packing: str, window: int, seed: int
) -> None:
    ids, segments = all_rows(packed(lengths, sequence_length, packing, window))
    drawn = np.random.default_rng(seed).integers(0, max(len(ids), 1), 12 if len(ids) else 0)
    together = read_shard_rows(packed(lengths, sequence_length, packing, window), drawn)
    np.testing.assert_array_equal(together[0], ids[drawn])
    np.testing.assert_array_equal(together[1], segments[drawn])
    for row in drawn:
        alone = read_shard_rows(packed(lengths, sequence_length, packing, window), np.array([row]))
        np.testing.assert_array_equal(alone[0][0], ids[row])
        np.testing.assert_array_equal(alone[1][0], segments[row])


@settings(max_examples=50, deadline=None)
@given(lengths=lengths_of_documents, sequence_length=sequence_lengths, packing=packings)
def test_attention_across_documents_makes_a_row_one_segment(
    lengths: list[int], sequence_length: int, packing: str
) -> None:
    apart = all_rows(packed(lengths, sequence_length, packing))
    across = all_rows(packed(lengths, sequence_length, packing, attend_across_documents=True))
    np.testing.assert_array_equal(across[0], apart[0])
    np.testing.assert_array_equal(across[1], np.minimum(apart[1], 0))


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=25), sequence_length=sequence_lengths)
@pytest.mark.parametrize("packing", ["greedy", "stream"])
def test_hardly_anything_is_padded(packing: str, lengths: list[int], sequence_length: int) -> None:
    """Before the last row only separators that fall on an edge are lost: two positions at each."""
    _, segments = all_rows(packed(lengths, sequence_length, packing))
    assert ((segments[:-1] == PADDING).sum(1) <= 4).all()


@pytest.mark.parametrize("packing", ["greedy", "stream"])
def test_a_realistic_shard_is_packed_to_more_than_97_percent(packing: str) -> None:
    lengths = np.random.default_rng(0).integers(20, 501, 4000)
    _, segments = all_rows(packed(lengths, 128, packing, 1024))
    assert (segments != PADDING).mean() > 0.97


@pytest.mark.parametrize(("sequence_length", "share"), [(128, 0.3), (512, 0.3)])
def test_greedy_packing_cuts_fewer_documents(sequence_length: int, share: float) -> None:
    lengths = np.random.default_rng(0).integers(20, 501, 4000)
    greedy, stream = (
        cut_documents(packed(lengths, sequence_length, packing, 1024)) for packing in ("greedy", "stream")
    )
    assert greedy < share * stream


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=30),
    capacity=st.integers(1, 30),
    filled=st.integers(0, 29),
)
def test_the_longest_document_that_fits_is_next(lengths: list[int], capacity: int, filled: int) -> None:
    filled %= capacity
    expected = greedy_by_hand(lengths, capacity - filled, capacity)
    assert greedy_order(np.array(lengths), capacity, filled) == expected


def test_only_the_windows_that_are_read_are_planned() -> None:
    shard = packed([5] * 1000, 16, "greedy", 10)
    read_shard_rows(shard, np.array([0, shard.rows - 1]))
    assert sum(shard._planned) <= 4


def test_threads_may_read_one_shard_together() -> None:
    lengths = np.random.default_rng(1).integers(1, 200, 5000)
    expected = all_rows(packed(lengths, 64, "greedy", 256))
    shard = packed(lengths, 64, "greedy", 256)
    wrong = []

    def read(seed: int) -> None:
        for _ in range(40):
            rows = np.random.default_rng(seed).integers(0, shard.rows, 64)
            found = read_shard_rows(shard, rows)
            if not all(np.array_equal(one, whole[rows]) for one, whole in zip(found, expected, strict=True)):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_ids_are_read_from_a_memory_map(tmp_path: Any, dtype: Any) -> None:
    lengths = [5, 17, 3]
    np.arange(10, 35).astype(dtype).tofile(tmp_path / "ids")
    ids = np.memmap(tmp_path / "ids", dtype=dtype, mode="r")
    shard = PackedShard(ids, offsets_of(lengths), SPECIAL, DataConfig(sequence_length=12))
    for found, expected in zip(all_rows(shard), all_rows(packed(lengths, 12, "greedy")), strict=True):
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=50, deadline=None)
@given(lengths=lengths_of_documents, sequence_length=sequence_lengths, packing=packings, beyond=st.integers(0, 3))
def test_a_row_that_is_not_there_is_an_index_error(
    lengths: list[int], sequence_length: int, packing: str, beyond: int
) -> None:
    shard = packed(lengths, sequence_length, packing)
    for row in (shard.rows + beyond, -1 - beyond):
        with pytest.raises(IndexError):
            read_shard_rows(shard, np.array([row]))


def test_no_documents_are_no_rows() -> None:
    assert row_count(0, 0, 16) == 0
    assert packed([], 16).rows == 0
    with pytest.raises(IndexError):
        read_shard_rows(packed([], 16), np.array([0]))


def test_no_rows_are_an_empty_batch() -> None:
    ids, segments = read_shard_rows(packed([3], 16), np.zeros(0, np.int64))
    assert ids.shape == segments.shape == (0, 16)


def test_a_document_that_just_fits_is_one_row_without_padding() -> None:
    ids, segments = all_rows(packed([14], 16))
    assert ids.tolist() == [[SPECIAL.cls, *range(10, 24), SPECIAL.sep]]
    assert segments.tolist() == [[0] * 16]


def test_a_row_by_hand() -> None:
    """Documents a b c d e | f g | h i in rows of 8: six stream positions a row, each row with its own edges."""
    cls, sep, pad = SPECIAL.cls, SPECIAL.sep, SPECIAL.pad
    a, b, c, d, e, f, g, h, i = range(10, 19)
    ids, segments = all_rows(packed([5, 2, 2], 8, "stream"))
    assert ids.tolist() == [
        [cls, a, b, c, d, e, sep, pad],
        [cls, f, g, sep, cls, h, sep, pad],
        [cls, i, sep, pad, pad, pad, pad, pad],
    ]
    assert segments[1].tolist() == [0, 0, 0, 0, 1, 1, 1, -1]


def test_a_greedy_row_by_hand() -> None:
    """Documents a b | c d e f | g h i j k l m n in rows of 10: what fits goes first, the long one is cut anyway."""
    cls, sep, pad = SPECIAL.cls, SPECIAL.sep, SPECIAL.pad
    a, b, c, d, e, f, g, h, i, j, k, l, m, n = range(10, 24)  # noqa: E741 - tokens, in the order of the letters
    ids, _ = all_rows(packed([2, 4, 8], 10, "greedy"))
    assert ids.tolist() == [
        [cls, g, h, i, j, k, l, m, n, sep],
        [cls, c, d, e, f, sep, pad, pad, pad, pad],
        [cls, a, b, sep, pad, pad, pad, pad, pad, pad],
    ]


def make_shards(documents: list[list[int]], sequence_length: int) -> list[PackedShard]:
    """Shards of documents of the given lengths; the tokens are numbered through all of them."""
    shards = []
    first = 10
    for lengths in documents:
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.arange(first, first + offsets[-1]).astype(np.uint32)
        shards.append(PackedShard(ids, offsets, SPECIAL, DataConfig(sequence_length=sequence_length, packing_window=4)))
        first += int(offsets[-1])
    return shards


def order_of(shards: list[PackedShard], global_batch: int, streams: int, window: int) -> Order:
    rows = np.array([shard.rows for shard in shards])
    return Order(rows, "f", 1, global_batch, DataConfig(streams=streams, shuffle_window=window))


@settings(max_examples=100, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), min_size=1, max_size=6),
    sequence_length=st.integers(4, 24),
    positions=st.lists(st.integers(0, 10**6), max_size=30),
)
def test_each_place_gives_its_row(documents: list[list[int]], sequence_length: int, positions: list[int]) -> None:
    shards = make_shards(documents, sequence_length)
    order = order_of(shards, 6, 3, 5)
    places = order.places(np.array(positions, dtype=np.int64))
    asked: list[int] = []

    def open_shard(number: int) -> PackedShard:
        asked.append(number)
        return shards[number]

    ids, segment = gather(places, open_shard, sequence_length)
    assert ids.shape == segment.shape == (len(positions), sequence_length)
    assert sorted(asked) == sorted(set(places.shard.tolist()))
    for index in range(len(positions)):
        row = read_shard_rows(shards[places.shard[index]], places.row[index : index + 1])
        np.testing.assert_array_equal(ids[index], row[0][0])
        np.testing.assert_array_equal(segment[index], row[1][0])


def test_an_epoch_holds_every_token_of_the_store_once() -> None:
    shards = make_shards([[5, 30, 7], [1], [40, 2, 2, 9]], 12)
    order = order_of(shards, 4, 2, 3)
    ids, _ = gather(order.places(np.arange(order.samples)), shards.__getitem__, 12)
    assert sorted(ids[ids >= 10].tolist()) == list(range(10, 10 + 96))
