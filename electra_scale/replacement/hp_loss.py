"""HP_Loss: predict the discriminator's loss for every token and draw in proportion to it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from electra_scale.model.heads import SamplingHead
from electra_scale.replacement.base import Draw, Masked, Sampler, mix, proposal
from electra_scale.replacement.config import ObjectiveConfig


class HardnessLossSampler(Sampler):
    """q(v) = p(v) L(v) / Z with Z = sum_v p(v) L(v), so that w = p/q = Z / L at the drawn token.

    L is the head's estimate of the discriminator's loss (Hao et al. 2021 for the idea; the form is ours): with
    ``form = mean`` softplus(score) fitted to l, with ``form = rms`` its root fitted to l^2, since under noise the
    variance of w l is least for q proportional to p sqrt(E[l^2]). The head starts at zero, hence q = p at step 0.
    """

    learns = True

    def __init__(self, head: SamplingHead, objective: ObjectiveConfig) -> None:
        super().__init__()
        self.head = head
        self.mixture = objective.mixture
        self.floor = objective.head.floor
        self.rms = objective.head.form == "rms"
        self.reaches_encoder = objective.head.reaches_encoder

    def hardness(self, score: Tensor) -> Tensor:
        """L > 0 from raw scores, any shape."""
        positive = softplus(score)
        return (positive.sqrt() if self.rms else positive) + self.floor

    def distribution(self, masked: Masked) -> tuple[Tensor, Tensor | None]:
        raw = self.head.scores(masked.hidden, masked.word_embeddings).float()
        if self.head.own_token is not None:
            own = self.head.own(masked.hidden).float()
            raw.scatter_(1, masked.original[:, None], own[:, None])
        hardness = self.hardness(raw)
        # Only ratios count; so scaled, a constant hardness gives a ratio of exactly 1.
        hardness = hardness / hardness.amax(-1, keepdim=True)
        p = proposal(masked.scores)
        normaliser = (p * hardness).sum(-1, keepdim=True) / p.sum(-1, keepdim=True)
        ratio = mix(hardness / normaliser, self.mixture)
        return p * ratio, ratio

    def loss(self, masked: Masked, drawn: Draw, discriminator_loss: Tensor) -> Tensor:
        """Squared error at the drawn tokens; only their rows of the vocabulary are touched, O(M E)."""
        hidden = masked.hidden if self.reaches_encoder else masked.hidden.detach()
        score = self.head.scores_at(hidden, masked.word_embeddings, drawn.tokens).float()
        if self.head.own_token is not None:
            own = self.head.own(hidden).float()
            score = torch.where(drawn.tokens == masked.original, own, score)
        target = discriminator_loss.detach()
        if self.rms:
            return (softplus(score) - target**2) ** 2
        return (self.hardness(score) - target) ** 2
