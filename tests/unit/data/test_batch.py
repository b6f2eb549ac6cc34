"""Batches: split by rows and moved to a device with every column that they carry."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from electra_scale.data.batch import Batch


def make_batch() -> Batch:
    """Four rows of five positions; the numbers of the extra columns are those of their rows and positions."""
    flat = torch.arange(20)
    masked = torch.tensor([1, 3, 4, 12, 16, 19])
    return Batch(
        ids=flat.reshape(4, 5) + 100,
        segment=torch.zeros(4, 5, dtype=torch.int64),
        masked=masked,
        shown_as_mask=masked % 2 == 0,
        uniform=masked / 20.0,
        extra={"pair": torch.arange(4), "positions": flat.reshape(4, 5)},
    )


def test_a_batch_has_no_extra_columns_unless_a_task_adds_some() -> None:
    whole = make_batch()
    plain = Batch(whole.ids, whole.segment, whole.masked, whole.shown_as_mask, whole.uniform)
    assert plain.extra == {}
    assert [part.extra for part in plain.split(2)] == [{}, {}]


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_each_part_of_a_split_has_its_own_rows_of_every_column(rows: int) -> None:
    whole = make_batch()
    parts = whole.split(rows)
    assert len(parts) == 4 // rows
    for name in ("ids", "segment", "shown_as_mask", "uniform"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    for number, part in enumerate(parts):
        assert part.ids.shape == (rows, 5)
        assert part.extra["pair"].tolist() == list(range(number * rows, (number + 1) * rows))
        assert torch.equal(part.extra["positions"] + 100, part.ids)
        # Masked positions are indices into the part.
        assert torch.equal(part.extra["positions"].flatten()[part.masked] / 20.0, part.uniform)


def test_moving_a_batch_moves_every_column() -> None:
    moved = make_batch().to(torch.device("meta"))
    tensors = [getattr(moved, field.name) for field in fields(moved) if field.name != "extra"]
    assert {tensor.device.type for tensor in [*tensors, *moved.extra.values()]} == {"meta"}
    assert set(moved.extra) == {"pair", "positions"}


def test_a_batch_for_the_cpu_is_not_copied() -> None:
    batch = make_batch()
    assert batch.to(torch.device("cpu")) is batch
