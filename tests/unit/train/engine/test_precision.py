"""``deepspeed: auto`` takes bf16 where a device has instructions for it, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from electra_scale.recipe.deepspeed_json import chosen_json, read_deepspeed_json
from electra_scale.train.engine.precision import has_bf16, precision_of


@pytest.mark.parametrize("bf16", [False, True])
def test_auto_is_a_shipped_file_of_the_precision_and_any_other_name_is_itself(bf16: bool) -> None:
    content = read_deepspeed_json(chosen_json("auto", bf16))
    assert precision_of(content) == (torch.bfloat16 if bf16 else torch.float32)
    assert content["zero_optimization"]["stage"] == 2
    assert chosen_json("mine/zero.json", bf16) == "mine/zero.json"


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False, "amx_int8": True}, False),
        ({}, False),
    ],
)
def test_a_processor_is_asked_for_its_instructions(
    instructions: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert has_bf16(torch.device("cpu")) is expected


def test_a_torch_that_cannot_tell_means_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not has_bf16(torch.device("cpu"))


def test_this_processor_has_what_linux_says_that_it_has() -> None:
    with open("/proc/cpuinfo") as lines:
        flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    assert has_bf16(torch.device("cpu")) == bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))
