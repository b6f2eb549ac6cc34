"""Packing: every token of every document once and in order, in rows that are well formed."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from electra_scale.data.rows import PADDING, read_row, row_count, stream_starts

from .conftest import SPECIAL

lengths_of_documents = st.lists(st.integers(0, 40), min_size=1, max_size=25)
sequence_lengths = st.integers(8, 40)


class Shard:
    """Documents of the given lengths; the tokens are numbered through, above the special ones."""

    def __init__(self, lengths: list[int], sequence_length: int) -> None:
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.ids = np.arange(10, 10 + self.offsets[-1]).astype(np.uint16)
        self.starts = stream_starts(self.offsets)
        self.sequence_length = sequence_length
        self.rows = row_count(len(lengths), int(self.offsets[-1]), sequence_length)

    def read(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return read_row(self.ids, self.offsets, self.starts, row, self.sequence_length, SPECIAL)

    def document_of(self, token: int) -> int:
        return int(np.searchsorted(self.offsets, token - 10, side="right")) - 1


def pieces(row: tuple[NDArray[np.int64], NDArray[np.int64]]) -> list[list[int]]:
    """The tokens of each segment of a row, with [CLS] and [SEP], padding left out."""
    ids, segments = row
    marked = zip(segments.tolist(), ids.tolist(), strict=True)
    return [[token for _, token in part] for segment, part in groupby(marked, lambda pair: pair[0]) if segment >= 0]


@settings(max_examples=200, deadline=None)
@given(lengths=lengths_of_documents, sequence_length=sequence_lengths)
@example(lengths=[6], sequence_length=8)
@example(lengths=[5, 1], sequence_length=8)
@example(lengths=[4, 6], sequence_length=8)
@example(lengths=[6, 4, 6], sequence_length=8)
@example(lengths=[0, 0, 0, 0, 1], sequence_length=8)
def test_every_token_appears_exactly_once_and_in_order(lengths: list[int], sequence_length: int) -> None:
    shard = Shard(lengths, sequence_length)
    read = [token for row in range(shard.rows) for piece in pieces(shard.read(row)) for token in piece[1:-1]]
    assert read == shard.ids.tolist()


@settings(max_examples=200, deadline=None)
@given(lengths=lengths_of_documents, sequence_length=sequence_lengths)
@example(lengths=[5, 1], sequence_length=8)
@example(lengths=[4, 6], sequence_length=8)
@example(lengths=[1] * 25, sequence_length=8)
def test_rows_are_well_formed(lengths: list[int], sequence_length: int) -> None:
    shard = Shard(lengths, sequence_length)
    for number in range(shard.rows):
        ids, segments = shard.read(number)
        assert ids.shape == segments.shape == (sequence_length,)
        assert ids.dtype == segments.dtype == np.int64
        padding = segments == PADDING
        # Padding at the end only, and only padding is padded.
        assert (np.diff(padding.astype(int)) >= 0).all()
        assert ((ids == SPECIAL.pad) == padding).all()
        found = pieces((ids, segments))
        assert [int(part) for part in np.unique(segments[~padding])] == list(range(len(found)))
        for piece in found:
            inside = piece[1:-1]
            assert piece[0] == SPECIAL.cls
            assert piece[-1] == SPECIAL.sep
            assert len(inside) >= 1
            assert not {SPECIAL.cls, SPECIAL.sep, SPECIAL.pad, SPECIAL.mask} & set(inside)
            assert len({shard.document_of(token) for token in inside}) == 1
        assert len({shard.document_of(piece[1]) for piece in found}) == len(found)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=25), sequence_length=sequence_lengths)
def test_hardly_anything_is_padded(lengths: list[int], sequence_length: int) -> None:
    """Before the last row only separators that fall on an edge are lost: two positions at each."""
    shard = Shard(lengths, sequence_length)
    for number in range(shard.rows - 1):
        assert (shard.read(number)[1] == PADDING).sum() <= 4


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=15),
    sequence_length=sequence_lengths,
    seed=st.integers(0, 1000),
)
def test_a_row_is_the_same_whenever_it_is_read(lengths: list[int], sequence_length: int, seed: int) -> None:
    shard = Shard(lengths, sequence_length)
    in_order = [shard.read(row) for row in range(shard.rows)]
    for row in np.random.default_rng(seed).permutation(shard.rows):
        ids, segments = Shard(lengths, sequence_length).read(int(row))
        np.testing.assert_array_equal(ids, in_order[row][0])
        np.testing.assert_array_equal(segments, in_order[row][1])


@settings(max_examples=50, deadline=None)
@given(lengths=lengths_of_documents, sequence_length=sequence_lengths, beyond=st.integers(0, 3))
def test_a_row_that_is_not_there_is_an_index_error(lengths: list[int], sequence_length: int, beyond: int) -> None:
    shard = Shard(lengths, sequence_length)
    for row in (shard.rows + beyond, -1 - beyond):
        with pytest.raises(IndexError):
            shard.read(row)


def test_no_documents_are_no_rows() -> None:
    assert row_count(0, 0, 16) == 0
    with pytest.raises(IndexError):
        Shard([], 16).read(0)


def test_a_document_that_just_fits_is_one_row_without_padding() -> None:
    ids, segments = Shard([14], 16).read(0)
    assert ids.tolist() == [SPECIAL.cls, *range(10, 24), SPECIAL.sep]
    assert segments.tolist() == [0] * 16


def test_a_row_by_hand() -> None:
    """Documents a b c d e | f g | h i in rows of 8: six stream positions a row, each row with its own edges."""
    shard = Shard([5, 2, 2], 8)
    cls, sep, pad = SPECIAL.cls, SPECIAL.sep, SPECIAL.pad
    a, b, c, d, e, f, g, h, i = range(10, 19)
    assert [shard.read(row)[0].tolist() for row in range(shard.rows)] == [
        [cls, a, b, c, d, e, sep, pad],
        [cls, f, g, sep, cls, h, sep, pad],
        [cls, i, sep, pad, pad, pad, pad, pad],
    ]
    assert shard.read(1)[1].tolist() == [0, 0, 0, 0, 1, 1, 1, -1]
