"""Layer-wise learning rates: how deep each parameter of an encoder lies, and the rate that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from data_pipeline.errors import UserError


@dataclass(frozen=True)
class Rate:
    """The learning rate and weight decay of one parameter; ``below`` is its distance from the head, which is 0."""

    name: str
    below: int
    rate: float
    weight_decay: float


def distances(model: nn.Module) -> dict[str, int]:
    """How far below the head each parameter lies: the head 0, the top layer 1, the bottom layer n, embeddings n + 1.

    The layers are found from the model: the longest list of modules that hold the most parameters in its encoder.
    What the encoder has before them, and each table of embeddings, counts as embeddings; what it has after them (a
    last norm, a pooler) counts as head. Lists of the same length beside it belong to the same layers.

    Raises:
        UserError: the model has no encoder with a list of layers.
    """
    prefix = getattr(model, "base_model_prefix", "")
    encoder = getattr(model, prefix, None) if prefix else None
    if not isinstance(encoder, nn.Module):
        raise UserError(f"{type(model).__name__} has no encoder of its own name, so its layers cannot be numbered")
    lists = {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, nn.ModuleList) and any(True for _ in module.parameters())
    }
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists if other != name)]
    if not outer:
        raise UserError(f"{type(model).__name__} has no list of layers, so its layers cannot be numbered")
    main = max(outer, key=lambda name: sum(parameter.numel() for parameter in lists[name].parameters()))
    layers = len(lists[main])
    beside = [name for name in outer if len(lists[name]) == layers]
    tables = {
        f"{name}.weight" if name else "weight"
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Embedding)
    }

    found: dict[str, int] = {}
    reached = False
    for name, _ in encoder.named_parameters():
        home = next((one for one in beside if name.startswith(f"{one}.")), None)
        if home is not None:
            reached = True
            below = layers - int(name[len(home) + 1 :].split(".")[0])
        else:
            below = 0 if reached and name not in tables else layers + 1
        found[f"{prefix}.{name}"] = below
    return {name: found.get(name, 0) for name, _ in model.named_parameters()}


def rates(model: nn.Module, rate: float, decay: float, weight_decay: float) -> list[Rate]:
    """The table of rates: ``rate * decay ** distance``. Norms and biases, all that is no matrix, have no weight decay.

    ELECTRA (Clark et al. 2020, appendix B) calls this layer-wise learning-rate decay. Its code gives the top layer
    ``decay ** 2``, since it counts a task-specific layer that is not there; here the top layer has ``decay ** 1``.
    """
    below = distances(model)
    return [
        Rate(name, below[name], rate * decay ** below[name], weight_decay if parameter.ndim > 1 else 0.0)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]


def optimizer(model: nn.Module, table: list[Rate], betas: tuple[float, float], epsilon: float) -> torch.optim.AdamW:
    """AdamW with one group for each rate and weight decay in ``table``."""
    parameters = dict(model.named_parameters())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for entry in table:
        groups.setdefault((entry.rate, entry.weight_decay), []).append(parameters[entry.name])
    return torch.optim.AdamW(
        [
            {"params": members, "lr": rate, "weight_decay": weight_decay}
            for (rate, weight_decay), members in groups.items()
        ],
        betas=betas,
        eps=epsilon,
        # One pass over each weight instead of several.
        fused=True,
    )
