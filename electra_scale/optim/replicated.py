"""Updates of a part whose whole state every rank keeps: its own rate and its own clip, such as the sampling head's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from electra_scale.optim.adamw import AdamW
from electra_scale.optim.parts import Part


@runtime_checkable
class Remembers(Protocol):
    """A module that keeps something from step to step besides its parameters."""

    def memory(self) -> dict[str, Any]: ...

    def load_memory(self, state: dict[str, Any]) -> None: ...


class ReplicatedOptimizer:
    """Updates a part's parameters from gradients that are summed over ranks.

    A small part has some thousand parameters, so each rank keeps all of their state, and its gradient can be clipped by
    its own norm: the engine knows one norm for all that it is given. Weights are kept in float32 whatever the run's
    precision.

    Args:
        part: what to train.
        optimizer: what makes the update.
        sum_over_ranks: adds up a tensor over all ranks, in place.
    """

    def __init__(self, part: Part, optimizer: AdamW, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        self.part = part
        self.parameters = list(part.module.parameters())
        self.weights = [parameter.detach().float().clone() for parameter in self.parameters]
        self.sum_over_ranks = sum_over_ranks
        self._flat = torch.zeros(0)
        self.optimizer = optimizer.replicated(part, self.weights)

    def gather(self, gradient_scale: float) -> Tensor:
        """Sum the gradients that have come together over ranks, times ``gradient_scale``; gives their norm ()."""
        parts = [
            torch.zeros_like(weight) if parameter.grad is None else parameter.grad.float()
            for parameter, weight in zip(self.parameters, self.weights, strict=True)
        ]
        self._flat = self.sum_over_ranks(torch.cat([part.flatten() for part in parts])).mul_(gradient_scale)
        return self._flat.norm()

    def step(self, rate: float, norm: float) -> None:
        """Update with what :meth:`gather` has summed and given the norm of, clipped."""
        flat = self._flat
        if 0 < self.part.clip < norm:
            flat.mul_(self.part.clip / norm)
        for weight, gradient in zip(self.weights, flat.split([weight.numel() for weight in self.weights]), strict=True):
            weight.grad = gradient.view_as(weight)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self._write_back()

    def skip(self) -> None:
        """Leave weights and state as they are, and forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def _write_back(self) -> None:
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, self.weights, strict=True):
                parameter.copy_(weight)
                parameter.grad = None

    def state(self) -> dict[str, Any]:
        """All that is needed to resume: weights in float32 by name, the part's memory, the optimizer's state."""
        names = [name for name, _ in self.part.module.named_parameters()]
        memory = self.part.module.memory() if isinstance(self.part.module, Remembers) else {}
        return {
            "weights": dict(zip(names, self.weights, strict=True)),
            "optimizer": self.optimizer.state_dict(),
            **memory,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Resume from :meth:`state`, with the settings that the recipe has now; KeyError for a parameter it lacks."""
        with torch.no_grad():
            for (name, _), weight in zip(self.part.module.named_parameters(), self.weights, strict=True):
                weight.copy_(state["weights"][name])
        if isinstance(self.part.module, Remembers):
            self.part.module.load_memory(state)
        own = [
            {key: value for key, value in group.items() if key not in ("params", "lr")}
            for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)
        self._write_back()
