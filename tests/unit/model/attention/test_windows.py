"""Attention by blocks against attention under a whole mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from electra_scale.model.attention.layout import attention_mask
from electra_scale.model.attention.windows import attend_in_blocks, block_mask, pays

HEADS, WIDTH = 2, 8


def rows_of(length: int) -> Tensor:
    """(3,S): one document; several, one of a single token, and padding; a row of padding."""
    segment = torch.zeros(3, length, dtype=torch.int64)
    segment[1, length // 3 :] = 1
    segment[1, length // 2 :] = 2
    segment[1, -2:] = -1
    segment[2] = -1
    return segment


@pytest.mark.parametrize("window", [1, 2, 6, 7, 32, 34])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 64, 65, 100])
def test_blocks_give_what_the_whole_mask_gives_and_its_gradients(length: int, window: int) -> None:
    generator = torch.Generator().manual_seed(length + window)
    segment = rows_of(length)
    states = [torch.randn(3, length, HEADS, WIDTH, generator=generator, requires_grad=True) for _ in range(3)]
    slope = torch.randn(3, length, HEADS, WIDTH, generator=generator)
    query, key, value = states
    allowed = block_mask(segment, window)
    added = torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)
    by_blocks = attend_in_blocks(query, key, value, added, window, 0.0)
    query, key, value = (part.transpose(1, 2) for part in states)
    whole = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask(segment, window))
    torch.testing.assert_close(by_blocks, whole.transpose(1, 2), atol=1e-6, rtol=1e-5)
    found = torch.autograd.grad((by_blocks * slope).sum(), states)
    expected = torch.autograd.grad((whole.transpose(1, 2) * slope).sum(), states)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_the_mask_grows_with_the_length_and_not_with_its_square() -> None:
    sizes = [block_mask(rows_of(length), 32).numel() for length in (512, 1024, 2048)]
    assert sizes[1] == 2 * sizes[0]
    assert sizes[2] == 4 * sizes[0]


def test_blocks_are_taken_where_they_form_fewer_scores() -> None:
    assert not pays(128, 128)
    assert pays(512, 128)
    assert not pays(512, 1024)
