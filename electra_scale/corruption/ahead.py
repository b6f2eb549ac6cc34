"""Replacements that were drawn a step before they are used."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from electra_scale.corruption.sampler import Draw, Masked
from electra_scale.corruption.vocabulary.tiles import scores_of


@dataclass
class Ahead:
    """What is known of a draw when it is made.

    ``tokens`` (M,); ``log_p`` and ``log_q`` (M,) the logarithms of the generator's probability and of that of the
    distribution really drawn from; ``hardness`` (M,) q/p, all at the time of the draw.
    """

    tokens: Tensor
    log_p: Tensor
    log_q: Tensor
    hardness: Tensor

    @torch.no_grad()
    def weighted_for(self, masked: Masked, now: Draw) -> Draw:
        """The draw as the generator of ``masked`` weights it: p now over q then.

        E_q[w l] = E_p[l] holds for that p whatever q was, as long as q > 0 where p > 0. ``now`` is a draw at the same
        positions with the parameters of now; its normalisers are kept.
        """
        scores = scores_of(masked.features, masked.word_embeddings, masked.bias, self.tokens)
        log_p = (scores - now.log_normaliser).to(scores.dtype)
        weight = (log_p - self.log_q).exp()
        return replace(now, tokens=self.tokens, weight=weight, hardness=self.hardness, log_p=log_p)
