"""Samplers without parameters: the generator's own distribution, as it is or softened."""

from __future__ import annotations

import torch
from torch import Tensor

from electra_scale.replacement.base import Masked, Sampler, proposal


class ElectraSampler(Sampler):
    """q = p (Clark et al. 2020)."""

    def distribution(self, masked: Masked) -> tuple[Tensor, Tensor | None]:
        return proposal(masked.scores), None


class TemperatureSampler(Sampler):
    """q = softmax(scores / temperature): the control for whatever merely flattens the generator."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def distribution(self, masked: Masked) -> tuple[Tensor, Tensor | None]:
        log_p = torch.log_softmax(masked.scores, -1)
        log_q = torch.log_softmax(masked.scores / self.temperature, -1)
        return log_q.exp(), (log_q - log_p).exp()
