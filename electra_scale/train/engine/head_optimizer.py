"""AdamW for the sampling head, apart from everything else: its own rate and its own clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from electra_scale.corruption.samplers.base import Sampler


class HeadOptimizer:
    """Updates a sampler's parameters from gradients that are summed over ranks.

    The head has some thousand parameters, so each rank keeps all of their state, and its gradient can be clipped by its
    own norm: the engine knows one norm for all that it is given. Weights are kept in float32 whatever the run's
    precision.

    Args:
        sampler: what to train.
        betas, eps, weight_decay: of AdamW. Biases and other vectors are not decayed.
        clip: largest norm of the gradient; 0 leaves it as it is.
        sum_over_ranks: adds up a tensor over all ranks, in place.
    """

    def __init__(
        self,
        sampler: Sampler,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        clip: float,
        sum_over_ranks: Callable[[Tensor], Tensor],
    ) -> None:
        self.sampler = sampler
        self.parameters = list(sampler.parameters())
        self.weights = [parameter.detach().float().clone() for parameter in self.parameters]
        self.clip = clip
        self.sum_over_ranks = sum_over_ranks
        groups = [
            {"params": [weight for weight in self.weights if weight.dim() > 1], "weight_decay": weight_decay},
            {"params": [weight for weight in self.weights if weight.dim() <= 1], "weight_decay": 0.0},
        ]
        self._flat = torch.zeros(0)
        self._norm = 0.0
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=betas, eps=eps)

    def gather(self, gradient_scale: float) -> float:
        """Sum the gradients that have come together over ranks, times ``gradient_scale``; their norm, on all ranks."""
        parts = [
            torch.zeros_like(weight) if parameter.grad is None else parameter.grad.float()
            for parameter, weight in zip(self.parameters, self.weights, strict=True)
        ]
        self._flat = self.sum_over_ranks(torch.cat([part.flatten() for part in parts])).mul_(gradient_scale)
        self._norm = float(self._flat.norm())
        return self._norm

    def step(self, rate: float) -> None:
        """Update with what :meth:`gather` has summed, clipped."""
        flat = self._flat
        if 0 < self.clip < self._norm:
            flat.mul_(self.clip / self._norm)
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
        """All that is needed to go on: weights in float32 by name, the sampler's memory, the optimizer's state."""
        names = [name for name, _ in self.sampler.named_parameters()]
        return {
            "weights": dict(zip(names, self.weights, strict=True)),
            "mean_loss": self.sampler.mean_loss,
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`; raises KeyError for a parameter that it lacks."""
        with torch.no_grad():
            for (name, _), weight in zip(self.sampler.named_parameters(), self.weights, strict=True):
                weight.copy_(state["weights"][name])
        self.sampler.mean_loss = state["mean_loss"]
        self.optimizer.load_state_dict(state["optimizer"])
        self._write_back()
