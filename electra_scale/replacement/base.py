"""What every replacement sampler does: propose a token per masked position, and perhaps learn from the result."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from electra_scale.replacement.draws import draw


@dataclass
class Masked:
    """What a sampler may look at, for the M masked positions.

    ``scores`` (M, V) the generator's scores in float32, ``hidden`` (M, H) its hidden states, ``word_embeddings``
    (V, E), ``original`` (M,) the true tokens, ``uniform`` (M,) float64 numbers in [0, 1).
    """

    scores: Tensor
    hidden: Tensor
    word_embeddings: Tensor
    original: Tensor
    uniform: Tensor


@dataclass
class Draw:
    """Drawn replacements.

    ``tokens`` (M,); ``weight`` (M,) importance weights p/q of the distribution really drawn from, constants for the
    gradient; ``hardness`` (M,) the sampler's relative estimate of how hard the drawn token is, 1 where it has none.
    """

    tokens: Tensor
    weight: Tensor
    hardness: Tensor


class Sampler(nn.Module):
    """Base of the samplers. Subclasses are stateless apart from their parameters."""

    learns: bool = False
    """Whether :meth:`loss` gives a loss."""

    def propose(self, masked: Masked) -> Draw:
        """Draw a replacement for each masked position from q, with the weight p/q. No gradient."""
        with torch.no_grad():
            q_weights, ratio = self.distribution(masked)
            tokens = draw(q_weights, masked.uniform)
            if ratio is None:
                ones = torch.ones_like(masked.scores[:, 0])
                return Draw(tokens, ones, ones)
            drawn = ratio.gather(1, tokens[:, None])[:, 0]
            return Draw(tokens, 1.0 / drawn, drawn)

    @abstractmethod
    def distribution(self, masked: Masked) -> tuple[Tensor, Tensor | None]:
        """Unnormalised q (M, V), and q/p (M, V) for normalised q and p, or None where q = p."""

    def loss(self, masked: Masked, drawn: Draw, discriminator_loss: Tensor) -> Tensor:
        """The sampler's own loss per position (M,), given the discriminator's loss (M,) at the drawn tokens.

        Raises NotImplementedError for a sampler that does not learn.
        """
        raise NotImplementedError(f"{type(self).__name__} does not learn")


def proposal(scores: Tensor) -> Tensor:
    """p (M, V) from the generator's scores, up to a factor per row that keeps the largest entry at 1."""
    return torch.exp(scores - scores.amax(-1, keepdim=True))


def mix(relative: Tensor, mixture: float) -> Tensor:
    """q/p (M, V) of the defensive mixture (1 - mixture) q + mixture p, from q/p; never below ``mixture``."""
    return relative if mixture == 0 else relative * (1 - mixture) + mixture
