"""Scores of a tile are products in single precision at least, whatever the processor does them with."""

from __future__ import annotations

import pytest
import torch

from electra_scale.corruption.vocabulary import tiles
from electra_scale.corruption.vocabulary.tiles import score_tile


def setting() -> str:
    return str(torch.backends.mkldnn.matmul.fp32_precision)


@pytest.mark.parametrize("instructions", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scores_are_exact_to_single_precision_and_torchs_setting_is_left_as_it_was(
    instructions: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_has_bf16", lambda: instructions)
    random = torch.Generator().manual_seed(1)
    features, weight = (torch.randn(rows, 192, generator=random).to(dtype) for rows in (50, 700))
    bias, before, seen = torch.randn(700, generator=random), setting(), []
    real = torch.mm

    def seeing(*arguments: object, **options: object) -> torch.Tensor:
        seen.append(setting())
        return real(*arguments, **options)

    monkeypatch.setattr(torch, "mm", seeing)
    found = score_tile(features, weight, bias)
    expected = features.double() @ weight.double().T + bias.double()
    # Rounded to bf16, a score of 40 would be off by up to 0.06.
    assert float((found.double() - expected).abs().max()) < 2e-4
    assert setting() == before
    # Numbers of 32 bits would be rounded by instructions for 16, so they never have them.
    assert seen[-1] == ("bf16" if instructions and dtype == torch.bfloat16 else before)


def test_the_setting_comes_back_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_has_bf16", lambda: True)
    before = setting()
    with pytest.raises(RuntimeError):
        score_tile(torch.ones(3, 4).bfloat16(), torch.ones(5, 6).bfloat16(), torch.ones(5))
    assert setting() == before
