"""Initial weights that depend on a seed and a parameter's name, and on nothing else."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from electra_scale.recipe.model import Init

_OFFSETS = (-1, 1, -2, 2)
"""Of the positions that heads may start by attending to."""

_PEAK = 10.0
"""Score of the position that such a head attends to, where positions and words have equal shares of an embedding."""


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


class Dense(nn.Linear):
    """A dense layer without bias that starts in its own way.

    :func:`initialise` gives it ``scale`` times the usual deviation, which with ``fan_in`` is 1/sqrt(inputs) whatever
    that of other dense layers is.
    """

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0, fan_in: bool = False) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.scale = scale
        self.fan_in = fan_in


@torch.no_grad()
def initialise(module: nn.Module, std: float, seed: int, init: Init = "bert") -> None:
    """Matrices from a truncated normal, biases 0, LayerNorm 1 and 0.

    ``bert`` gives every matrix the deviation ``std``. ``fan_in`` gives dense layers 1/sqrt(inputs) instead, which
    keeps the signal's size through narrow layers: at 0.02 a width of 64 shrinks it sixfold a layer, and a small
    network then spends its first minutes growing its weights. A :class:`Dense` has its own.

    Args:
        module: everything below it is initialised, by its parameters' names relative to ``module``.
        std: deviation of the matrices before the cut.
        seed: any integer.
        init: deviation of the dense layers.
    """
    dense = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    norms = {name for name, part in module.named_modules() if isinstance(part, nn.LayerNorm)}
    for name, parameter in module.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if parameter.dim() > 1:
            deviation = std
            if owner in dense:
                part = dense[owner]
                own = part if isinstance(part, Dense) else None
                if init == "fan_in" or (own is not None and own.fan_in):
                    deviation = part.in_features**-0.5
                deviation *= 1.0 if own is None else own.scale
            truncated_normal(parameter, deviation, seed, name)
        elif owner in norms and leaf == "weight":
            parameter.fill_(1.0)
        else:
            parameter.zero_()


def sinusoids(positions: int, width: int, std: float) -> Tensor:
    """(positions, width) sines and cosines of falling frequency, scaled to a root mean square of ``std``.

    A start for learned position embeddings (the form of Vaswani et al. 2017, section 3.5, with wavelengths up to
    2 pi 1,000): distances are readable from step 0, which learned positions otherwise take long to become.
    """
    angle = torch.arange(positions)[:, None] * _rates(width)
    table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]
    return table * (std / table.square().mean().sqrt())


def neighbour_attention(width: int, heads: int) -> list[tuple[Tensor, Tensor]]:
    """Query and key matrices (D,H) of heads that attend to one position before, one after, two before, two after.

    Reads the reversed columns of :func:`sinusoids`: of the highest frequencies as many pairs as fit into D, a quarter
    of all at most, since the lower ones hardly tell neighbours apart. A key is the pair (sin, cos) of its position, a
    query that of its own position moved by the offset (the angle's addition theorem), so their product is largest where
    the two positions differ by the offset. For fewer than four heads the first offsets. Ours.
    """
    wide = width // heads
    pairs = min(wide // 2, width // 8)
    size = math.sqrt(_PEAK * math.sqrt(wide) / max(pairs, 1))
    found = []
    for offset in _OFFSETS[:heads]:
        query, key = torch.zeros(wide, width), torch.zeros(wide, width)
        for pair, rate in enumerate(_rates(width)[:pairs].tolist()):
            row, sine, cosine = 2 * pair, width - 1 - 2 * pair, width - 2 - 2 * pair
            key[row, sine] = key[row + 1, cosine] = size
            query[row, sine] = query[row + 1, cosine] = size * math.cos(rate * offset)
            query[row, cosine] = size * math.sin(rate * offset)
            query[row + 1, sine] = -size * math.sin(rate * offset)
        found.append((query, key))
    return found


def rotary_neighbour_attention(width: int, heads: int, theta: float) -> list[tuple[Tensor, Tensor]]:
    """Query and key matrices (D,H) of heads that attend to the same positions under rotary positions of base ``theta``.

    They read the last input alone, a constant beside the words: a key is the same vector everywhere, a query that
    vector turned by the offset, so that the two, turned by their positions, meet where those differ by the offset. A
    pair counts as its rate: fast ones tell neighbours apart, slower ones tell turns of the fast ones apart. Ours.
    """
    wide = width // heads
    rates = theta ** (-torch.arange(0, wide, 2) / wide)
    # Half of a normalised input's squares are the constant's, H / 2, in queries and keys alike.
    size = (_PEAK * math.sqrt(wide) * 2 / width * rates / rates.sum()).sqrt()
    found = []
    for offset in _OFFSETS[:heads]:
        query, key = torch.zeros(wide, width), torch.zeros(wide, width)
        key[: wide // 2, -1] = size
        query[: wide // 2, -1] = size * torch.cos(offset * rates)
        query[wide // 2 :, -1] = size * torch.sin(offset * rates)
        found.append((query, key))
    return found


def _rates(width: int) -> Tensor:
    """Radians per position of each pair of columns."""
    return torch.exp(torch.arange(0, width, 2) * (-math.log(1000.0) / width))
