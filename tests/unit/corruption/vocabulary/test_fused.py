"""Triton's kernels: where they are chosen, that they compile for CUDA, and fused_checks.py in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from electra_scale.corruption.vocabulary import sweeps
from electra_scale.corruption.vocabulary.sweeps import FusedSweeps, TorchSweeps, kernels_work, sweeps_of
from electra_scale.corruption.vocabulary.tiles import ScoreParts
from tests.support.fixtures.runs import ROOT

INSTALL = "pip install --no-deps triton==3.7.1 (690 MB; torch's builds for CUDA bring it along)"
CUDA = torch.device("cuda")
OF_SAMPLERS = (
    "test_the_weight_of_every_token_is_p_over_q",
    "test_a_head_that_has_run_away_still_gives_a_token",
)
"""Tests of test_samplers.py that kernels are held to as well."""


@pytest.fixture
def triton(require_part: Callable[[bool, str], None]) -> Any:
    require_part(importlib.util.find_spec("triton") is not None, INSTALL)
    return pytest.importorskip("triton")


@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_kernels_give_what_torchs_operations_and_enumerations_give() -> None:
    checks = Path(__file__).with_name("fused_checks.py")
    others = ROOT / "tests/unit/corruption/samplers/test_samplers.py"
    chosen = " or ".join([checks.name, *OF_SAMPLERS])
    command = ["-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["-p", "tests.support.instruments.fused_everywhere", str(checks), str(others), "-k", chosen]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
def test_every_kernel_compiles_for_cuda_where_no_device_is(
    triton: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from electra_scale.corruption.vocabulary import fused

    compiled: list[str] = []

    def compile_it(kernel: Any, grid: tuple[int, ...], *arguments: Any, **shape: int) -> None:
        values = dict(zip(kernel.arg_names, [*arguments, *shape.values()], strict=True))
        constants = {name: value for name, value in values.items() if value is None or name in shape}
        kinds = {name: "constexpr" if name in constants else _kind(value) for name, value in values.items()}
        source = triton.compiler.ASTSource(kernel, kinds, constants)
        target = triton.backends.compiler.GPUTarget("cuda", 80, 32)
        options = {"num_warps": 8, "enable_fp_fusion": False}
        assert triton.compile(source, target=target, options=options).asm["cubin"]
        compiled.append(kernel.fn.__name__)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(fused, "_launch", compile_it)
    tile, row = torch.zeros(4, 300), torch.zeros(4)
    whole, place = torch.zeros(4, 384), torch.zeros(4, dtype=torch.int64)
    bias = torch.zeros(300, dtype=torch.bfloat16)
    fused.exponentials(ScoreParts(300, tile, bias, None, row, place), whole, 128, tile, row, row)
    fused.exponentials(ScoreParts(300, tile, None, row, None, None, tile), whole, 128)
    fused.hardened(ScoreParts(300, tile, None, row, row, place), row, True, 1e-3, tile, whole, 128)
    fused.hardened(ScoreParts(300, None, None, row, row, place), row, False, 1e-3, tile, whole, 128)
    fused.softened(tile, 1.5, whole, 128)
    assert compiled == ["_exponentials", "_exponentials", "_hardened", "_hardened", "_softened"]


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def test_a_processors_tiles_are_done_by_torchs_operations() -> None:
    for dtype in (torch.float32, torch.float64):
        assert type(sweeps_of(torch.device("cpu"), dtype, 128)) is TorchSweeps


def test_on_cuda_tiles_of_float32_are_done_by_kernels_and_others_by_torchs_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeps, "kernels_work", lambda _: True)
    assert type(sweeps_of(CUDA, torch.float32, 128)) is FusedSweeps
    assert type(sweeps_of(CUDA, torch.float64, 128)) is TorchSweeps


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at a machine whose kernels can't work")
def test_where_kernels_do_not_work_the_pass_says_why_once_and_takes_torchs_operations(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernels_work.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert type(sweeps_of(CUDA, torch.float32, 128)) is TorchSweeps
        assert type(sweeps_of(CUDA, torch.float32, 128)) is TorchSweeps
    (said,) = caplog.messages
    assert said.startswith("the pass over the vocabulary takes torch's operations, which are slower: triton")
    assert "\n" not in said


def test_a_kernel_that_gives_other_numbers_than_torch_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from electra_scale.corruption import vocabulary

    class Wrong:
        @staticmethod
        def check(device: torch.device) -> None:
            raise ArithmeticError("a kernel's sums differ from torch's")

    kernels_work.cache_clear()
    monkeypatch.setattr(vocabulary, "fused", Wrong, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert not kernels_work(CUDA)
    assert "a kernel's sums differ from torch's" in caplog.text
    kernels_work.cache_clear()
