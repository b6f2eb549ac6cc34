"""The weights of a checkpoint in the networks of a recipe, whose sampler may be another one by now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from data_pipeline.errors import UserError
from electra_scale.tasks.module import PretrainModule


def load_weights(module: PretrainModule, saved: Mapping[str, Tensor], where: str) -> tuple[set[str], list[str]]:
    """Load ``saved`` into a module. A head of its corruption or task that is not the saved one stays as it is.

    Returns the names of such heads, which start fresh, and a line for each that starts fresh or is left out.

    Raises UserError, naming the checkpoint as ``where``, if the networks are not of the module's sizes.
    """
    own = module.state_dict()
    fresh: set[str] = set()
    kept, lines = dict(saved), []
    for head in module.learned:
        ours, theirs = _of(head, own), _of(head, saved)
        if ours == theirs:
            continue
        for name in theirs:
            del kept[name]
        kept |= {name: own[name] for name in ours}
        if ours:
            fresh.add(head)
            reason = "the checkpoint's is another one, which is left out" if theirs else "the checkpoint has none"
            lines.append(f"the {head}'s head starts fresh: {reason}")
        else:
            lines.append(f"the {head}'s head in the checkpoint is left out: the recipe has none")
    wrong = next(_misfits(own, kept), None)
    if wrong is not None:
        raise UserError(f"{where} does not fit the recipe: {wrong}; restore the recipe's sizes, or start a new run")
    with torch.no_grad():
        module.load_state_dict(kept, strict=True)
    return fresh, lines


def _of(head: str, weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items() if name.startswith(f"{head}.")}


def _misfits(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> Iterator[str]:
    for name in [*own, *(name for name in saved if name not in own)]:
        if name not in saved:
            yield f"it has no {name}"
        elif name not in own:
            yield f"the recipe has no {name}"
        elif own[name].shape != saved[name].shape:
            yield f"{name} is {tuple(saved[name].shape)} there, {tuple(own[name].shape)} in the recipe"
