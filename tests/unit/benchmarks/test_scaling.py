"""The arithmetic of expected efficiency, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.training.step_on_paper import RANKS, SMALL_COLLECTIVES, Network, Work, bytes_of_a_step, scaled, step_of

# 1 ms a row, 10 million numbers of 2 bytes; 1 us a hop, 20 GB/s inside a node of 8, 2 GB/s across.
WORK = Work(row_seconds=1e-3, parameters=10_000_000, element=2)
NETWORK = Network(latency=1e-6, inside=20e9, across=2e9, per_node=8)


def test_collectives_by_hand() -> None:
    assert NETWORK.all_reduce(20e6, 4) == pytest.approx(4e-6 + 2 * 20e6 * 3 / 4 / 20e9)
    assert NETWORK.all_gather(20e6, 4) == pytest.approx(3e-6 + 20e6 * 3 / 4 / 20e9)
    assert NETWORK.all_reduce(20e6, 1) == NETWORK.all_gather(20e6, 1) == 0


def test_the_slower_network_is_taken_as_soon_as_a_node_is_full_and_by_all_its_devices() -> None:
    assert NETWORK.bandwidth(8) == 20e9
    assert NETWORK.bandwidth(9) == 16e9
    assert replace(NETWORK, across=90e9).bandwidth(9) == 20e9


def test_zero_2_reduces_each_micro_batch_and_zero_1_once() -> None:
    assert bytes_of_a_step(WORK, 4) == {"reduced": 80e6, "gathered": 20e6}
    assert bytes_of_a_step(replace(WORK, stage=1), 4) == {"reduced": 20e6, "gathered": 20e6}


@pytest.mark.parametrize(("stage", "rounds"), [(2, 4), (1, 1)])
def test_a_step_is_its_computing_and_what_is_sent(stage: int, rounds: int) -> None:
    found = step_of(replace(WORK, stage=stage), NETWORK, ranks=4, micro=8, accumulation=4)
    small = SMALL_COLLECTIVES * NETWORK.all_reduce(8, 4)
    sent = rounds * NETWORK.all_reduce(20e6, 4) + NETWORK.all_gather(20e6, 4) + small
    assert found.computing == pytest.approx(32e-3)
    assert found.exchange == found.exposed == pytest.approx(sent)
    assert found.efficiency == pytest.approx(32e-3 / (32e-3 + sent))


def test_each_bucket_pays_its_own_latency() -> None:
    whole, parts = (step_of(replace(WORK, bucket=size), NETWORK, 4, 8, 1) for size in (10_000_000, 1_000_000))
    assert parts.exchange - whole.exchange == pytest.approx(9 * 4e-6)


def test_only_gradients_hide_and_only_behind_their_backward_passes() -> None:
    plain = step_of(WORK, NETWORK, 4, 8, 1)
    full = step_of(WORK, replace(NETWORK, overlap=1.0), 4, 8, 1)
    assert plain.exposed - full.exposed == pytest.approx(NETWORK.all_reduce(20e6, 4))
    slow = replace(NETWORK, inside=1e9, overlap=0.5)
    found = step_of(WORK, slow, 4, 8, 1)
    assert found.exchange - found.exposed == pytest.approx(0.5 * 2 / 3 * 8e-3)
    # Of four micro-batches ZeRO-1 reduces after the last.
    once = step_of(replace(WORK, stage=1), replace(slow, inside=1e8), 4, 8, 4)
    assert once.exchange - once.exposed == pytest.approx(0.5 * 2 / 3 * 8e-3)


def test_one_device_is_fully_efficient_and_more_ranks_than_rows_share_no_batch() -> None:
    found = scaled(WORK, NETWORK, global_batch=64, most=16)
    assert [ranks for ranks, _, _ in found] == list(RANKS)
    (_, shared, full), *_, (_, last, most) = found
    assert shared is not None
    assert (shared.efficiency, full.efficiency) == (1, 1)
    assert (last, most.ranks) == (None, 1024)
    efficiencies = [step.efficiency for _, step, _ in found if step is not None]
    assert len(efficiencies) == 7
    assert efficiencies == sorted(efficiencies, reverse=True)


def test_small_micro_batches_lose_what_each_costs_whatever_its_rows() -> None:
    found = scaled(replace(WORK, fixed_seconds=8e-3), Network(0, 1e99, 1e99, 8), global_batch=64, most=64)
    steps = {ranks: step for ranks, step, _ in found if step is not None}
    assert steps[1].seconds == pytest.approx(72e-3)
    assert steps[8].efficiency == pytest.approx(72 / 8 / 16)
