"""Native code of the pass: where it is kept, who may share it, and that threads do not change its bits."""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path

import pytest
import torch

from electra_scale.corruption.tile_kernels import ScoreParts
from electra_scale.corruption.vocabulary import native_kernels
from electra_scale.corruption.vocabulary.device_kernels import check

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, c_compiler: None) -> Path:
    """Where the code is kept, empty."""
    monkeypatch.setattr(native_kernels, "library", functools.cache(native_kernels.library.__wrapped__))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "electra-scale"


def test_code_is_compiled_once_and_kept_for_the_next_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native_kernels.library()
    (made,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = made.stat()
    native_kernels.library.cache_clear()
    monkeypatch.setattr(native_kernels, "_compile", lambda *_: pytest.fail("compiled again"))
    native_kernels.library()
    assert made.stat().st_mtime_ns == before.st_mtime_ns


def test_another_processor_or_compiler_has_code_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native_kernels.library()
    monkeypatch.setattr(native_kernels, "_processor", lambda: b"another")
    native_kernels.library.cache_clear()
    native_kernels.library()
    monkeypatch.setenv("CC", "cc -g0")
    native_kernels.library.cache_clear()
    native_kernels.library()
    assert len(list(folder.iterdir())) == 3


def test_a_folder_that_cannot_be_written_is_done_without(folder: Path) -> None:
    folder.write_text("a file is in the way")
    check(native_kernels, CPU)
    assert folder.is_file()


def test_a_damaged_file_is_done_without(folder: Path) -> None:
    native_kernels.library()
    (made,) = folder.iterdir()
    # A file of its own: the one that is loaded stays whole.
    made.unlink()
    made.write_bytes(b"no code")
    native_kernels.library.cache_clear()
    check(native_kernels, CPU)


def test_a_compiler_that_fails_is_named_with_the_first_line_that_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "broken-cc"
    compiler.write_text("#!/bin/sh\necho this machine is not supported >&2\necho more >&2\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(native_kernels.Unavailable, match=r"broken-cc: this machine is not supported$"):
        native_kernels.library()


def test_any_number_of_threads_gives_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    product, bias = torch.randn(37, 300, generator=generator), torch.randn(300, generator=generator)
    unit = torch.randn(37, generator=generator)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out, tilted = torch.empty(2, 37, 384)
            parts = ScoreParts(300, product.clone(), bias)
            results = native_kernels.exponentials(parts, out, 128)
            parts = ScoreParts(300, product.clone(), offset=unit)
            found.append((out, tilted, *results, native_kernels.hardened(parts, unit, True, 0.1, out, tilted, 128)))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        for first, other in zip(found[0], others, strict=True):
            assert torch.equal(first, other)


def test_no_home_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    check(native_kernels, CPU)
