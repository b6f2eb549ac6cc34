"""Activation checkpointing: a layer's activations are computed again for its gradient in place of being kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from electra_scale.recipe.model import ModelConfig


def run_layer(layer: nn.Module, config: ModelConfig, *given: Any) -> Tensor:
    """What ``layer`` makes of its arguments, of which autograd keeps no more than these where ``config`` says so.

    In the backward pass the layer runs again, from the same state of the random generators, so that dropout drops the
    same numbers. Only training that forms gradients does so.
    """
    found: Tensor
    if config.activation_checkpointing and layer.training and torch.is_grad_enabled():
        drops = config.dropout > 0 or config.attention_dropout > 0
        found = checkpoint(layer, *given, use_reentrant=False, preserve_rng_state=drops)
    else:
        found = layer(*given)
    return found
