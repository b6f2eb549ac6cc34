"""FLOPs of a batch: attention inside documents only, nothing for padding, masked positions as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from electra_scale.data.batch import Batch
from electra_scale.model.cost import discriminator_flops, training_flops
from electra_scale.monitor.batch_flops import BatchFlops, document_lengths
from electra_scale.recipe.optimizer import PARTS
from tests.unit.train.conftest import MODEL, MODELS, S, every_architecture, make_batch


def batch_of(segments: list[list[int]], masked: int = 0) -> Batch:
    segment = torch.tensor(segments)
    some = torch.arange(masked)
    return Batch(torch.full_like(segment, 7), segment, some, some > 0, some.double())


def test_a_row_s_documents_are_told_apart_and_padding_is_none() -> None:
    segment = torch.tensor([[0, 0, 0, 1, 1, -1], [1, 1, 2, 2, 2, 2], [-1] * 6, [0] * 6])
    assert document_lengths(segment).tolist() == [3, 2, 2, 4, 6]


@every_architecture
def test_rows_of_one_document_each_cost_what_a_plan_counts(architecture: str) -> None:
    config, masked = MODELS[architecture], 5
    found = BatchFlops(config, S, joint=True)(batch_of([[0] * S, [0] * S], masked))
    assert found == pytest.approx(2 * S * training_flops(config, S, masked / (2 * S), joint=True))


def test_attention_is_counted_over_documents_and_not_over_rows() -> None:
    count = BatchFlops(MODEL, S, joint=True, with_generator=False)
    halves = batch_of([[0] * (S // 2) + [1] * (S // 2)])
    # A token of a document of S / 2 attends to half as many, in each layer.
    saved = 3 * MODEL.discriminator.layers * 4 * MODEL.discriminator.hidden * (S - S // 2)
    assert count(batch_of([[0] * S])) - count(halves) == pytest.approx(S * saved)
    assert count(halves) == pytest.approx(S * 3 * discriminator_flops(MODEL, S // 2))


def test_padding_costs_nothing() -> None:
    count = BatchFlops(MODEL, S, joint=True)
    assert count(batch_of([[0] * 5 + [-1] * (S - 5)], 2)) == count(batch_of([[0] * 5], 2))
    assert count(batch_of([[-1] * S])) == 0


@pytest.mark.parametrize(
    ("joint", "with_generator", "trained"),
    [(False, True, PARTS), (True, True, ("discriminator", "discriminator_head")), (True, False, PARTS)],
)
def test_what_does_not_learn_is_counted_as_a_plan_counts_it(
    joint: bool, with_generator: bool, trained: tuple[str, ...]
) -> None:
    batch = batch_of([[0] * S], 4)
    assert BatchFlops(MODEL, S, joint, with_generator, trained)(batch) == pytest.approx(
        S * training_flops(MODEL, S, 4 / S, joint, with_generator, trained)
    )


def test_micro_batches_cost_together_what_the_batch_costs() -> None:
    count, batch = BatchFlops(replace(MODEL), S, joint=True), make_batch()
    assert sum(map(count, batch.split(2))) == pytest.approx(count(batch))
