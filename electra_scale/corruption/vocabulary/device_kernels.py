"""Which kernels a device has for the tiles of scores, tried before they are used."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache

import torch
from torch import Tensor

from electra_scale.corruption.tile_kernels import ScoreParts, TileKernels

_log = logging.getLogger(__name__)


@cache
def kernels_of(device: torch.device) -> TileKernels | None:
    """Triton's on CUDA, compiled C on a processor; None where they do not work, and a line says why, once."""
    if device.type not in ("cpu", "cuda"):
        return None
    try:
        kernels = _triton() if device.type == "cuda" else _native()
        check(kernels, device)
    except Exception as error:
        # A device too old, no compiler of C, a release with other rules: nothing that a run should end for.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if device.type == "cuda":
            reason = f"triton: {reason}"
        else:
            reason = f"native code: {reason}; install a C compiler (gcc), or name one in CC"
        _log.warning("the pass over the vocabulary takes torch's operations, which are slower: %s", reason)
        return None
    return kernels


def _triton() -> TileKernels:
    if importlib.util.find_spec("triton") is None:
        raise ModuleNotFoundError("it is not installed")
    from electra_scale.corruption.vocabulary import triton_kernels

    return triton_kernels


def _native() -> TileKernels:
    from electra_scale.corruption.vocabulary import native_kernels

    return native_kernels


def check(kernels: TileKernels, device: torch.device) -> None:
    """Run each kernel on a small tile. Raises what it raises, or ArithmeticError where torch finds otherwise."""
    rows, columns, width, strip = 3, 300, 384, 128
    product = torch.linspace(-9.0, 3.0, rows * columns, device=device).view(rows, columns)
    bias = torch.linspace(1.0, 2.0, columns, device=device)
    score = product + bias
    top, place = score.amax(-1), torch.tensor([-5, 7, columns], device=device)
    out, again, relative = product.new_empty(3, rows, width)
    parts = ScoreParts(columns, product.clone(), bias, place=place)
    found, sums = kernels.exponentials(parts, out, strip, relative=relative[:, :columns])
    wanted = (score - top[:, None]).exp()
    _same("top", found, top)
    _same("exponentials", out[:, :columns], wanted)
    _same("sums", sums.sum(-1), wanted.sum(-1))
    _same("padding", out[:, columns:], torch.zeros_like(out[:, columns:]))
    unit = product[:, 0] - 1
    hardness = torch.nn.functional.softplus(product).sqrt() + 0.5
    own = torch.nn.functional.softplus(unit).sqrt() + 0.5
    sums = kernels.hardened(ScoreParts(columns, product.clone()), unit, True, 0.5, wanted, again, strip)
    _same("tilted by hardness", again[:, :columns], wanted * hardness / own[:, None])
    _same("sums", sums.sum(-1), again[:, :columns].sum(-1))
    sums = kernels.softened(relative[:, :columns], 1.5, again, strip)
    _same("softened", again[:, :columns], ((score - top[:, None]) / 1.5).exp())
    _same("sums", sums.sum(-1), again[:, :columns].sum(-1))
    again.fill_(1.0)
    _same("sums of what is there", kernels.summed(again, columns, strip).sum(-1), again.new_full((rows,), columns))


def _same(name: str, found: Tensor, wanted: Tensor) -> None:
    if not torch.allclose(found, wanted, rtol=1e-5, atol=1e-12):
        raise ArithmeticError(f"a kernel's {name} differ from torch's")
