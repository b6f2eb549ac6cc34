"""HP_Dist: learn the sampling distribution itself."""

from __future__ import annotations

import torch
from torch import Tensor

from electra_scale.model.heads import SamplingHead
from electra_scale.replacement.base import Draw, Masked, Sampler, mix, proposal
from electra_scale.replacement.config import ObjectiveConfig


class HardnessDistributionSampler(Sampler):
    """q = softmax(log p + r), with r from the head and p a constant; r starts at zero, hence q = p at step 0.

    Fitted to q* = p l / sum(p l) by KL(q* || q): the loss at a draw is -sg[w l] log q, whose expected gradient on r is
    E_p[l] (q - q*). The residual form and the absence of a normaliser are our choices.
    """

    learns = True

    def __init__(self, head: SamplingHead, objective: ObjectiveConfig) -> None:
        super().__init__()
        self.head = head
        self.mixture = objective.mixture
        self.reaches_encoder = objective.head.reaches_encoder

    def residual(self, masked: Masked, hidden: Tensor) -> Tensor:
        """r (M, V), with the original token's entry replaced where the head has one for it."""
        residual = self.head.scores(hidden, masked.word_embeddings).float()
        if self.head.own_token is not None:
            own = self.head.own(hidden).float()
            residual = residual.scatter(1, masked.original[:, None], own[:, None])
        return residual

    def distribution(self, masked: Masked) -> tuple[Tensor, Tensor | None]:
        residual = self.residual(masked, masked.hidden)
        log_p = torch.log_softmax(masked.scores, -1)
        # Not log q - log p: this is exactly 0 where the residual is, and defined where p is 0.
        shift = torch.logsumexp(log_p + residual, -1) - torch.logsumexp(log_p, -1)
        ratio = mix((residual - shift[:, None]).exp(), self.mixture)
        return proposal(masked.scores) * ratio, ratio

    def loss(self, masked: Masked, drawn: Draw, discriminator_loss: Tensor) -> Tensor:
        hidden = masked.hidden if self.reaches_encoder else masked.hidden.detach()
        log_p = torch.log_softmax(masked.scores.detach(), -1)
        log_q = torch.log_softmax(log_p + self.residual(masked, hidden), -1)
        chosen = log_q.gather(1, drawn.tokens[:, None])[:, 0]
        return -(drawn.weight * discriminator_loss).detach() * chosen
