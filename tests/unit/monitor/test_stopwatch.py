"""A process's time in parts: each moment once, in the innermost part that is open."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from electra_scale.monitor import stopwatch as stopwatch_module
from electra_scale.monitor.stopwatch import LEFT_OUT, PARTS, Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(stopwatch_module.time, "monotonic", lambda: now[0])
    return now


def test_a_moment_belongs_to_the_innermost_part_only(clock: list[float]) -> None:
    watch = Stopwatch()
    clock[0] += 1
    with watch.part("backward"):
        clock[0] += 2
        with watch.part("exchange"):
            clock[0] += 4
        clock[0] += 8
    clock[0] += 16
    none = dict.fromkeys(PARTS, 0.0)
    assert watch.read() == none | {"other": 17.0, "backward": 10.0, "exchange": 4.0}
    assert watch.read() == none


def test_a_part_that_an_error_ends_is_over(clock: list[float]) -> None:
    watch = Stopwatch()

    def fail() -> None:
        with watch.part("forward"):
            clock[0] += 1
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()
    clock[0] += 2
    found = watch.read()
    assert (found["forward"], found["other"]) == (1.0, 2.0)


def test_what_is_left_out_is_in_no_part_and_an_open_part_is_read_so_far(clock: list[float]) -> None:
    watch = Stopwatch()
    with watch.part("logging"):
        clock[0] += 1
        with watch.part(LEFT_OUT):
            clock[0] += 50
        assert watch.read() == dict.fromkeys(PARTS, 0.0) | {"logging": 1.0}
        clock[0] += 3
    assert watch.read()["logging"] == 3.0


class _Device:
    """A device whose clock a test sets, and which passes an event when it is told to."""

    def __init__(self) -> None:
        self.now, self.passed, self.stream, self.made = 0.0, 0.0, "default", 0

    def event(self, enable_timing: bool) -> Any:
        assert enable_timing
        self.made += 1
        event = SimpleNamespace(at=0.0)
        event.record = lambda: setattr(event, "at", self.now)
        event.query = lambda: event.at <= self.passed
        event.elapsed_time = lambda end: 1000 * (end.at - event.at)
        return event


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> _Device:
    made = _Device()
    monkeypatch.setattr(torch.cuda, "Event", made.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: made.stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda: "default")
    return made


def test_on_a_device_only_what_it_has_passed_is_read_and_nothing_is_waited_for(device: _Device) -> None:
    watch = Stopwatch(torch.device("cuda", 0))
    with watch.part("forward"):
        device.now = 2.0
    with watch.part("backward"):
        device.now = 5.0
    device.passed = 2.0
    assert (found := watch.read())["forward"] == 2.0
    assert found["backward"] == 0.0
    device.passed = 5.0
    assert watch.read()["backward"] == 3.0


def test_what_runs_beside_the_computation_takes_no_time_of_its_own(device: _Device) -> None:
    watch = Stopwatch(torch.device("cuda", 0))
    with watch.part("backward"):
        device.now, device.stream = 1.0, "reduction"
        with watch.part("exchange"):
            device.now = 2.0
        device.now, device.stream = 3.0, "default"
    device.passed = 3.0
    found = watch.read()
    assert (found["backward"], found["exchange"]) == (3.0, 0.0)


def test_events_are_used_again(device: _Device) -> None:
    watch = Stopwatch(torch.device("cuda", 0))
    for step in range(1000):
        with watch.part("forward"):
            device.now = device.passed = step
    assert device.made < 300
    assert watch.read()["forward"] == 999.0
