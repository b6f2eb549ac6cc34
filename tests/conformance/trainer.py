"""The adapter: what a trainer of replaced token detection is to the checks.

An adapter makes one training step on a text and tells what happened. The generator's and the discriminator's scores
are given with the text, so that its distribution is known: an adapter whose networks are replaced by tables gives them
as they are, one with networks of its own adds them to what these say. Masks are the trainer's own, as a rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

VOCABULARY = 16
PAD, CLS, SEP, MASK = 0, 1, 2, 3
SPECIAL = (PAD, CLS, SEP, MASK)
IMPOSSIBLE = 15
"""A token that no text holds and whose score is so low that p rules it out."""

IGNORED = -100
"""Label of a position that a loss leaves out, as in torch."""

MASK_SHARE = 0.3
"""The share of a row's ordinary tokens that trainers are asked to mask, more than usual, for more draws a step."""


@dataclass(frozen=True)
class Text:
    """Rows of a batch, and the scores that the networks give.

    ``ids`` (B,S) int64 tokens, [CLS] first and [SEP] last; ``padding`` (B,S) bool, True behind a row's [SEP];
    ``generator_scores`` (B,S,V) and ``discriminator_scores`` (B,S), positive where a token looks replaced.
    """

    ids: Tensor
    padding: Tensor
    generator_scores: Tensor
    discriminator_scores: Tensor


@dataclass(frozen=True)
class Step:
    """What a trainer did with a text. Letters: B rows, S positions, V tokens.

    Attributes:
        masked: (B,S) bool, the positions that its generator had to predict.
        drawn: (B,S) int64, its draws at masked positions, anything elsewhere; None where they show only in ``read``.
        read: (B,S) int64, the ids that its discriminator read.
        labels: (B,S) the discriminator's labels, 1 for replaced, 0 for original, -100 where it has none.
        generator_scores: (B,S,V) at masked positions; None where there is no generator.
        discriminator_scores: (B,S).
        generator_loss, discriminator_loss: as it computes them, without their weights in the total.
        generator_gradient: (B,S,V) of the generator's loss in its scores, 0 where none was formed.
        discriminator_gradient: (B,S) of the discriminator's loss in its scores.
        leak: the largest gradient that the discriminator's loss has in anything that is the generator's alone.
        q: (B,S,V) what it says that it draws from; None: the softmax of the generator's scores.
        p: (B,S,V) what its weights refer to, where that is not this softmax.
        weights: (B,S) factors of the discriminator's losses; None: all are 1.
        gradients: of the losses by name, where draws are the same whatever else is in the batch.
        masks_are_given: the masks came with the text, so that they are the adapter's and not the trainer's.
    """

    masked: Tensor
    drawn: Tensor | None
    read: Tensor
    labels: Tensor
    generator_scores: Tensor | None
    discriminator_scores: Tensor
    generator_loss: float | None
    discriminator_loss: float
    generator_gradient: Tensor | None
    discriminator_gradient: Tensor
    leak: float | None
    q: Tensor | None = None
    p: Tensor | None = None
    weights: Tensor | None = None
    gradients: dict[str, Tensor] = field(default_factory=dict)
    masks_are_given: bool = False


class Trainer(Protocol):
    """An adapter of a trainer."""

    def step(self, text: Text, seed: int) -> Step:
        """One step of training on ``text``, with whatever is random in it decided by ``seed``; no weight changes."""
