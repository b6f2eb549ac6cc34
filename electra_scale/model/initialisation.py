"""Initial weights that depend on a seed and a parameter's name, and on nothing else."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def generator_for(seed: int, name: str) -> torch.Generator:
    """A CPU random generator for one named tensor.

    Keyed by name, so that adding or resizing one part leaves the start of every other part as it was: arms
    of an ablation that differ in one head begin from the same encoders.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def truncated_normal(tensor: Tensor, std: float, seed: int, name: str) -> None:
    """Fill ``tensor`` (any shape, on the CPU) from a normal of deviation ``std``, cut at 2 deviations."""
    nn.init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std, generator=generator_for(seed, name))


@torch.no_grad()
def initialise(module: nn.Module, std: float, seed: int) -> None:
    """BERT's initialisation: matrices from a truncated normal, biases 0, LayerNorm 1 and 0.

    Args:
        module: everything below it is initialised, by its parameters' names relative to ``module``.
        std: deviation of the matrices before the cut.
        seed: any integer.
    """
    norms = {name for name, part in module.named_modules() if isinstance(part, nn.LayerNorm)}
    for name, parameter in module.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if parameter.dim() > 1:
            truncated_normal(parameter, std, seed, name)
        elif owner in norms and leaf == "weight":
            parameter.fill_(1.0)
        else:
            parameter.zero_()
