"""Where kernels are chosen, that Triton's compile for CUDA, and test_tile_kernels.py in Triton's interpreter."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from electra_scale.corruption.tile_kernels import ScoreParts
from electra_scale.corruption.vocabulary import device_kernels, native_kernels, sweeps
from electra_scale.corruption.vocabulary.device_kernels import check, kernels_of
from electra_scale.corruption.vocabulary.sweeps import FusedSweeps, TorchSweeps, sweeps_of
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
    checks = Path(__file__).with_name("test_tile_kernels.py")
    others = ROOT / "tests/unit/corruption/samplers/test_samplers.py"
    chosen = " or ".join([checks.name, *OF_SAMPLERS])
    command = ["-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["-p", "tests.support.instruments.triton_everywhere", str(checks), str(others), "-k", chosen]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
def test_every_kernel_compiles_for_cuda_where_no_device_is(
    triton: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from electra_scale.corruption.vocabulary import triton_kernels

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
    monkeypatch.setattr(triton_kernels, "_launch", compile_it)
    tile, row = torch.zeros(4, 300), torch.zeros(4)
    whole, place = torch.zeros(4, 384), torch.zeros(4, dtype=torch.int64)
    bias = torch.zeros(300, dtype=torch.bfloat16)
    triton_kernels.exponentials(ScoreParts(300, tile, bias, None, row, place), whole, 128, tile, row, row)
    triton_kernels.exponentials(ScoreParts(300, tile, None, row, None, None, tile), whole, 128)
    triton_kernels.hardened(ScoreParts(300, tile, None, row, row, place), row, True, 1e-3, tile, whole, 128)
    triton_kernels.hardened(ScoreParts(300, None, None, row, row, place), row, False, 1e-3, tile, whole, 128)
    triton_kernels.softened(tile, 1.5, whole, 128)
    triton_kernels.summed(whole, 300, 128)
    assert compiled == ["_exponentials", "_exponentials", "_hardened", "_hardened", "_softened", "_summed"]


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


@pytest.fixture
def forgotten() -> Iterator[None]:
    """As in a new process: no kernels have been looked for."""
    kernels_of.cache_clear()
    yield
    kernels_of.cache_clear()


@pytest.mark.usefixtures("c_compiler")
def test_a_processors_tiles_of_float32_are_done_by_native_code_and_others_by_torchs_operations() -> None:
    assert type(sweeps_of(torch.device("cpu"), torch.float32, 128)) is FusedSweeps
    assert type(sweeps_of(torch.device("cpu"), torch.float64, 128)) is TorchSweeps


def test_on_cuda_tiles_of_float32_are_done_by_kernels_and_others_by_torchs_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeps, "kernels_of", lambda _: object())
    assert type(sweeps_of(CUDA, torch.float32, 128)) is FusedSweeps
    assert type(sweeps_of(CUDA, torch.float64, 128)) is TorchSweeps


def test_a_device_of_another_kind_has_torchs_operations_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert type(sweeps_of(torch.device("meta"), torch.float32, 128)) is TorchSweeps
    assert not caplog.messages


@pytest.mark.usefixtures("forgotten")
@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at a machine whose kernels can't work")
def test_where_kernels_do_not_work_the_pass_says_why_once_and_takes_torchs_operations(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert type(sweeps_of(CUDA, torch.float32, 128)) is TorchSweeps
        assert type(sweeps_of(CUDA, torch.float32, 128)) is TorchSweeps
    (said,) = caplog.messages
    assert said.startswith("the pass over the vocabulary takes torch's operations, which are slower: triton: ")
    assert "\n" not in said


@pytest.mark.usefixtures("forgotten")
def test_a_processor_without_a_compiler_has_torchs_operations_and_a_line_says_what_to_install(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native_kernels, "_kernels", functools.cache(native_kernels._kernels.__wrapped__))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    assert type(sweeps_of(torch.device("cpu"), torch.float32, 128)) is TorchSweeps
    (said,) = caplog.messages
    assert said.startswith("the pass over the vocabulary takes torch's operations, which are slower: native code: ")
    assert "no-such-compiler" in said
    assert said.endswith("install a C compiler (gcc), or name one in CC")


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_kernel_that_gives_other_numbers_than_torch_is_not_used(
    device: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong:
        @staticmethod
        def exponentials(parts: ScoreParts, out: Tensor, strip: int, relative: Tensor) -> tuple[Tensor, Tensor]:
            return out.zero_()[:, 0], out.unflatten(1, (-1, strip)).sum(-1)

    monkeypatch.setattr(device_kernels, "_triton" if device == "cuda" else "_native", lambda: Wrong)
    # Its numbers lie where this machine has a device.
    monkeypatch.setattr(device_kernels, "check", lambda kernels, _: check(kernels, torch.device("cpu")))
    assert kernels_of(torch.device(device)) is None
    assert "a kernel's top differ from torch's" in caplog.text
