"""A rank that stays slow is named once, with its host."""

from __future__ import annotations

from electra_scale.monitor.slow_ranks import EACH, IN_A_ROW, SlowRanks, rank_metrics


def alarms(slow: float, steps: int, ranks: int = 4) -> list[str]:
    watch = SlowRanks([f"node{rank}" for rank in range(ranks)])
    return [line for step in range(steps) for line in watch.see(step, [0.5] * (ranks - 1) + [slow])]


def test_a_rank_that_stays_slow_is_named_with_its_host_once() -> None:
    for ranks in (2, 3, 4, 9):
        (line,) = alarms(0.8, 30, ranks)
        assert f"rank {ranks - 1} on node{ranks - 1} is slow" in line
        assert "0.8 s" in line
        assert f"step {IN_A_ROW - 1}" in line


def test_small_differences_short_ones_and_tiny_steps_are_passed_over() -> None:
    assert alarms(0.7, 30) == []
    assert alarms(0.8, IN_A_ROW - 1) == []
    watch = SlowRanks(["a", "b"])
    assert [line for step in range(30) for line in watch.see(step, [0.001, 0.01])] == []
    assert [line for step in range(30) for line in watch.see(step, [0.5, 0.5 + 0.5 * (step % 2)])] == []
    assert SlowRanks(["a"]).see(1, [9.0]) == []


def test_tags_stay_few_with_many_ranks() -> None:
    assert rank_metrics([1.0, 2.0]) == {"speed/rank_seconds/0": 1.0, "speed/rank_seconds/1": 2.0}
    many = rank_metrics([1.0] * EACH + [3.0])
    assert many["speed/rank_seconds/slowest_rank"] == EACH
    assert many["speed/rank_seconds/max"] == 3.0
    assert len(many) == 4
