"""The ceiling of a step counts its matrix products as torch does, and puts each operation into one part."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.ceiling import Products, kind_of


def test_products_of_a_backward_pass_are_counted_as_torch_counts_them() -> None:
    weight, other = torch.randn(5, 7, requires_grad=True), torch.randn(2, 7, 4, requires_grad=True)
    with FlopCounterMode(display=False) as counter, Products() as products:
        hidden = torch.nn.functional.linear(torch.randn(2, 3, 7), weight, torch.randn(5, requires_grad=True))
        (hidden.sum() + torch.bmm(torch.randn(2, 3, 7), other).sum()).backward()
    found = sum(count * one.operations for one, count in products.found.items())
    assert found == counter.get_total_flops()
    assert all(one.seconds() > 0 for one in products.found)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::native_layer_norm", "normalisation"),
        ("aten::gelu_backward", "activation"),
        ("aten::bernoulli_", "dropout and random numbers"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::_softmax", "scores of the vocabulary"),
        ("aten::index_add_", "rows chosen and put back"),
        ("aten::add_", "copies, sums and products of elements"),
        ("aten::view", "the rest"),
    ],
)
def test_an_operation_is_counted_in_the_part_that_it_is_for(name: str, kind: str) -> None:
    assert kind_of(name) == kind
