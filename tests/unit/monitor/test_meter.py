"""Speed: tokens a second, share of the peak, share of waiting, since the last look."""

from __future__ import annotations

import pytest
import torch

from electra_scale.monitor import meter as meter_module
from electra_scale.monitor.hardware import peak_flops
from electra_scale.monitor.meter import Meter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(meter_module.time, "monotonic", lambda: now[0])
    return now


def test_rates_by_hand(clock: list[float]) -> None:
    meter = Meter(tokens=1000, flops=1e6, peak=1e10)
    meter.steps, meter.waited = 10, 1.0
    clock[0] += 4
    assert meter.read() == {
        "speed/tokens_per_second": pytest.approx(2500),
        "speed/mfu": pytest.approx(0.25),
        "speed/data_wait": pytest.approx(0.25),
    }
    # A new interval begins with each look.
    meter.steps = 10
    clock[0] += 2
    assert meter.read()["speed/tokens_per_second"] == pytest.approx(5000)


def test_evaluation_and_saving_are_not_counted(clock: list[float]) -> None:
    meter = Meter(1000, 1e6, 1e10)
    clock[0] += 1000
    meter.restart()
    meter.steps = 1
    clock[0] += 1
    assert meter.read()["speed/tokens_per_second"] == pytest.approx(1000)
    assert meter.read()["speed/data_wait"] == 0


def test_an_interval_without_steps_repeats_the_values_before_it(clock: list[float]) -> None:
    meter = Meter(1000, 1e6, 1e10)
    assert meter.read() == {}
    meter.steps = 1
    clock[0] += 1
    before = meter.read()
    clock[0] += 50
    assert meter.read() == before


def test_a_known_gpu_has_the_peak_of_its_data_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA H100 80GB HBM3")
    assert peak_flops(torch.device("cuda", 0), torch.bfloat16) == 989e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA A100-SXM4-40GB")
    assert peak_flops(torch.device("cuda", 0), torch.float16) == 312e12


def test_a_cpu_is_measured() -> None:
    assert 1e8 < peak_flops(torch.device("cpu"), torch.float32) < 1e15
