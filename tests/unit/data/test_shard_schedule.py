"""The schedule of shards: in the order of need, so many ahead, again after a failure, and no more than is needed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from electra_scale.data.shard_schedule import ShardSchedule

STEPS = range(100, 500)


def needs(steps: range) -> NDArray[np.int64]:
    """Step 100 + n needs the shards n // 10 and n // 10 + 1."""
    first = (np.array(steps) - 100) // 10
    return np.stack([first, first + 1], axis=1)


@pytest.fixture
def schedule() -> ShardSchedule:
    return ShardSchedule(STEPS, needs, lambda _: None, ahead=3)


def started(schedule: ShardSchedule, now: float = 0.0) -> list[int]:
    """Every shard that is due, in the order in which its fetch is started."""
    found = []
    while (shard := schedule.start_next(now)) is not None:
        found.append(shard)
    return found


def test_shards_are_fetched_in_the_order_of_need_and_each_once(schedule: ShardSchedule) -> None:
    assert schedule.scan_to(100)
    assert not schedule.scan_to(110)
    assert started(schedule) == [0, 1, 2, 3, 4]
    assert started(schedule) == []


def test_a_step_is_ready_when_all_of_its_shards_have_arrived(schedule: ShardSchedule) -> None:
    schedule.scan_to(100)
    for shard in (schedule.start_next(0.0), schedule.start_next(0.0)):
        assert not schedule.ready(100)
        assert shard is not None
        schedule.arrived(shard)
    assert schedule.ready(109)
    assert not schedule.ready(110)


def test_it_looks_ahead_until_enough_shards_are_scheduled(schedule: ShardSchedule) -> None:
    assert schedule.scan_ahead(100)
    # Shards 2, 3 and 4 are first needed after step 100, only shard 4 after step 120.
    assert not schedule.scan_ahead(100)
    assert schedule.scan_ahead(120)


def test_it_does_not_look_beyond_the_last_step(schedule: ShardSchedule) -> None:
    schedule.scan_to(499)
    assert not schedule.scan_ahead(499)


def test_a_failed_fetch_is_due_again_later_and_counts_its_failures(schedule: ShardSchedule) -> None:
    schedule.scan_to(100)
    first, *_ = started(schedule)
    assert schedule.seconds_until_due(0.0) is None
    schedule.retry_at(first, 5.0)
    assert schedule.failures(first) == 1
    assert schedule.start_next(4.0) is None
    assert schedule.seconds_until_due(4.0) == 1.0
    assert started(schedule, 5.0) == [first]


def test_shards_that_are_no_longer_needed_are_forgotten_and_fetched_again_if_they_come_again() -> None:
    schedule = ShardSchedule(STEPS, lambda steps: np.array(steps)[:, None] // 32 % 2, lambda _: None, ahead=1)
    schedule.scan_to(100)
    for shard in started(schedule):
        schedule.arrived(shard)
    assert schedule.ready(131)
    schedule.forget_before(132)
    schedule.scan_to(132)
    assert not schedule.ready(132)
    assert sorted(started(schedule)) == [0, 1]
