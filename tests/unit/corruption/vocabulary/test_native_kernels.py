"""Native code of the pass: threads do not change its bits."""

from __future__ import annotations

import pytest
import torch

from electra_scale.corruption.tile_kernels import ScoreParts
from electra_scale.corruption.vocabulary import native_kernels


@pytest.mark.usefixtures("c_compiler")
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
