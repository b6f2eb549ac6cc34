"""Speed: tokens a second, share of the peak, shares of the time, since the row before."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from electra_scale.monitor import meter as meter_module
from electra_scale.monitor import stopwatch as stopwatch_module
from electra_scale.monitor.hardware import peak_flops
from electra_scale.monitor.meter import Meter
from electra_scale.monitor.stopwatch import PARTS, Stopwatch

BATCH: Any = None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    for module in (meter_module, stopwatch_module):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def make_meter() -> Meter:
    return Meter(tokens=1000, work=lambda _: 5e8, peak=1e10, stopwatch=Stopwatch())


def test_rates_by_hand(clock: list[float]) -> None:
    meter = make_meter()
    for _ in range(10):
        meter.count([BATCH, BATCH])
    with meter.stopwatch.part("forward"):
        clock[0] += 3
    with meter.stopwatch.part("data_wait"):
        clock[0] += 1
    found = meter.read(meter.own())
    assert found == {f"speed/{name}": 0.0 for name in PARTS} | {
        "speed/tokens_per_second": pytest.approx(2500),
        "speed/mfu": pytest.approx(0.25),
        "speed/forward": pytest.approx(0.75),
        "speed/data_wait": pytest.approx(0.25),
    }
    # A new interval begins with each row.
    meter.count([BATCH])
    clock[0] += 2
    found = meter.read(meter.own())
    assert (found["speed/tokens_per_second"], found["speed/mfu"]) == (pytest.approx(500), pytest.approx(0.025))
    assert found["speed/other"] == 1


def test_flops_and_seconds_are_those_of_all_ranks(clock: list[float]) -> None:
    meter = make_meter()
    meter.count([BATCH])
    with meter.stopwatch.part("forward"):
        clock[0] += 1
    other_rank = dict.fromkeys(PARTS, 0.0) | {"exchange": 1.0, "flops": 1.5e9}
    found = meter.read({name: value + other_rank[name] for name, value in meter.own().items()})
    assert found["speed/mfu"] == pytest.approx(0.2)
    assert (found["speed/forward"], found["speed/exchange"]) == (0.5, 0.5)


def test_evaluation_and_saving_are_not_counted(clock: list[float]) -> None:
    meter = make_meter()
    meter.count([BATCH])
    clock[0] += 1
    with meter.leave_out():
        clock[0] += 1000
    meter.count([BATCH])
    clock[0] += 1
    found = meter.read(meter.own())
    assert found["speed/tokens_per_second"] == pytest.approx(1000)
    assert sum(found[f"speed/{name}"] for name in PARTS) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA A10", 125),
    ],
)
def test_a_known_gpu_has_the_peak_of_its_data_sheet(name: str, tflops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: name)
    peak, source = peak_flops(torch.device("cuda", 0), torch.bfloat16)
    assert peak == tflops * 1e12
    assert source.startswith("the data sheet of ")


def test_a_cpu_is_measured_and_the_source_says_so() -> None:
    peak, source = peak_flops(torch.device("cpu"), torch.float32)
    assert 1e8 < peak < 1e15
    assert source == "measured at the start, the quickest of four products of 1,024 x 1,024 in float32"
