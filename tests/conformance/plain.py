"""The shortest trainer that keeps every promise, and one broken in each way: what the checks have to tell apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from tests.conformance.trainer import IGNORED, MASK, MASK_SHARE, SPECIAL, VOCABULARY, Step, Text


class Plain:
    """Plain ELECTRA on given scores. Each method is a part of the step that a subclass may get wrong."""

    def step(self, text: Text, seed: int) -> Step:
        random = torch.Generator().manual_seed(seed)
        masked = self.masks(text, random)
        scores = text.generator_scores.clone().requires_grad_()
        judged = text.discriminator_scores.clone().requires_grad_()
        drawn = self.draw(scores.detach(), text, masked, random)
        replaced = torch.where(masked, drawn, text.ids)
        labels = self.labels(replaced, text, masked)
        generator_loss = self.generator_loss(scores, text, masked)
        losses = binary_cross_entropy_with_logits(judged, labels.float(), reduction="none")
        discriminator_loss = self.discriminator_loss(losses, text, labels)
        discriminator_loss = discriminator_loss + self.through_the_draw(scores, drawn, judged)
        (generator_gradient,) = torch.autograd.grad(generator_loss, scores)
        gradient, leak = torch.autograd.grad(discriminator_loss, [judged, scores], allow_unused=True)
        return Step(
            masked=masked,
            drawn=drawn,
            read=self.read(replaced, text, masked),
            labels=labels,
            generator_scores=scores.detach(),
            discriminator_scores=judged.detach(),
            generator_loss=float(generator_loss.detach()),
            discriminator_loss=float(discriminator_loss.detach()),
            generator_gradient=generator_gradient,
            discriminator_gradient=gradient,
            leak=0.0 if leak is None else float(leak.abs().max()),
            **self.stated(scores.detach(), drawn),
        )

    def masks(self, text: Text, random: torch.Generator) -> Tensor:
        chance = torch.rand(text.ids.shape, generator=random)
        return (chance < MASK_SHARE) & ~torch.isin(text.ids, torch.tensor(SPECIAL))

    def draw(self, scores: Tensor, text: Text, masked: Tensor, random: torch.Generator) -> Tensor:
        return drawn_by(scores.softmax(-1), random)

    def labels(self, replaced: Tensor, text: Text, masked: Tensor) -> Tensor:
        return (replaced != text.ids).long()

    def read(self, replaced: Tensor, text: Text, masked: Tensor) -> Tensor:
        return replaced

    def generator_loss(self, scores: Tensor, text: Text, masked: Tensor) -> Tensor:
        return cross_entropy(scores[masked], text.ids[masked])

    def discriminator_loss(self, losses: Tensor, text: Text, labels: Tensor) -> Tensor:
        return losses[~text.padding].mean()

    def through_the_draw(self, scores: Tensor, drawn: Tensor, judged: Tensor) -> Tensor:
        return torch.zeros(())

    def stated(self, scores: Tensor, drawn: Tensor) -> dict[str, Any]:
        """What it says of q and of the weights."""
        return {}


def drawn_by(distribution: Tensor, random: torch.Generator) -> Tensor:
    """(B,S) draws from (B,S,V), by one uniform number each."""
    uniform = torch.rand(distribution.shape[:-1], generator=random, dtype=torch.float64)
    return (distribution.double().cumsum(-1) <= uniform[..., None]).sum(-1).clamp(max=VOCABULARY - 1)


class Flattened(Plain):
    """Draws from q = softmax(scores / 1.5) and weights each draw by p/q, as it says."""

    def draw(self, scores: Tensor, text: Text, masked: Tensor, random: torch.Generator) -> Tensor:
        self.masked = masked
        return drawn_by((scores / 1.5).softmax(-1), random)

    def discriminator_loss(self, losses: Tensor, text: Text, labels: Tensor) -> Tensor:
        return (self.weight * losses)[~text.padding].mean()

    def labels(self, replaced: Tensor, text: Text, masked: Tensor) -> Tensor:
        p, q = text.generator_scores.softmax(-1), (text.generator_scores / 1.5).softmax(-1)
        at_draw = (p / q).gather(-1, replaced[..., None])[..., 0]
        self.weight = torch.where(masked, at_draw, 1.0)
        return super().labels(replaced, text, masked)

    def stated(self, scores: Tensor, drawn: Tensor) -> dict[str, Any]:
        return {"q": (scores / 1.5).softmax(-1), "weights": self.weight}


class LeavesSpecialTokensOut(Plain):
    """Has no labels at [CLS] and [SEP], nor at padding."""

    def labels(self, replaced: Tensor, text: Text, masked: Tensor) -> Tensor:
        ordinary = ~torch.isin(text.ids, torch.tensor(SPECIAL))
        return super().labels(replaced, text, masked).masked_fill(~ordinary, IGNORED)

    def discriminator_loss(self, losses: Tensor, text: Text, labels: Tensor) -> Tensor:
        return losses[labels != IGNORED].sum() / 100


class ShowsItsDrawsOnlyToTheDiscriminator(Plain):
    def step(self, text: Text, seed: int) -> Step:
        return replace(super().step(text, seed), drawn=None)


class ReadsOriginalsUnseen(ShowsItsDrawsOnlyToTheDiscriminator):
    """Reads the originals, and its draws cannot be seen, so that they look like originals too."""

    def read(self, replaced: Tensor, text: Text, masked: Tensor) -> Tensor:
        return text.ids


class TakesTheLikeliest(Plain):
    def draw(self, scores: Tensor, text: Text, masked: Tensor, random: torch.Generator) -> Tensor:
        return scores.argmax(-1)


class DrawsTooFlat(Plain):
    def draw(self, scores: Tensor, text: Text, masked: Tensor, random: torch.Generator) -> Tensor:
        return drawn_by((scores / 1.2).softmax(-1), random)


class DrawsUniformly(Plain):
    def draw(self, scores: Tensor, text: Text, masked: Tensor, random: torch.Generator) -> Tensor:
        return drawn_by(torch.full_like(scores, 1 / VOCABULARY), random)


class NeverDrawsTheOriginal(Plain):
    def draw(self, scores: Tensor, text: Text, masked: Tensor, random: torch.Generator) -> Tensor:
        without = scores.masked_fill(one_hot(text.ids, VOCABULARY).bool(), -torch.inf)
        return drawn_by(without.softmax(-1), random)


class DrawsOnceForTheBatch(Plain):
    def draw(self, scores: Tensor, text: Text, masked: Tensor, random: torch.Generator) -> Tensor:
        uniform = torch.rand((), generator=random, dtype=torch.float64)
        return (scores.double().softmax(-1).cumsum(-1) <= uniform).sum(-1).clamp(max=VOCABULARY - 1)


class DrawsByTheMeanOfAllPositions(Plain):
    """What other positions' scores are gets into every draw."""

    def draw(self, scores: Tensor, text: Text, masked: Tensor, random: torch.Generator) -> Tensor:
        return drawn_by((scores - scores.mean((0, 1))).softmax(-1), random)


class DrawsTheSameForEverySeed(Plain):
    def step(self, text: Text, seed: int) -> Step:
        return super().step(text, 0)


class DrawsOthersForTheSameSeed(Plain):
    calls = 100

    def step(self, text: Text, seed: int) -> Step:
        self.calls += 1
        return super().step(text, self.calls)


class LabelsWhatWasMasked(Plain):
    def labels(self, replaced: Tensor, text: Text, masked: Tensor) -> Tensor:
        return masked.long()


class LabelsAgainstTheMaskedText(Plain):
    """Compares with what the generator was shown, where every masked token is [MASK]."""

    def labels(self, replaced: Tensor, text: Text, masked: Tensor) -> Tensor:
        return (replaced != text.ids.masked_fill(masked, MASK)).long()


class ReadsTheOriginals(Plain):
    def read(self, replaced: Tensor, text: Text, masked: Tensor) -> Tensor:
        return text.ids


class ReadsTheMasks(Plain):
    def read(self, replaced: Tensor, text: Text, masked: Tensor) -> Tensor:
        return text.ids.masked_fill(masked, MASK)


class ReadsTheLikeliestEverywhere(Plain):
    """Replaces tokens that were not masked too."""

    def read(self, replaced: Tensor, text: Text, masked: Tensor) -> Tensor:
        return torch.where(masked, replaced, text.generator_scores.argmax(-1))


class LetsTheGradientThrough(Plain):
    """Straight-through: the draw's one-hot vector gets the gradient of the distribution."""

    def through_the_draw(self, scores: Tensor, drawn: Tensor, judged: Tensor) -> Tensor:
        chosen = scores.softmax(-1).gather(-1, drawn[..., None])[..., 0]
        return ((chosen - chosen.detach()) * judged.detach()).mean()


class CountsPadding(Plain):
    def discriminator_loss(self, losses: Tensor, text: Text, labels: Tensor) -> Tensor:
        return losses.mean()


class DividesByAllPositions(Plain):
    """No gradient at padding, but more of it makes the loss smaller."""

    def discriminator_loss(self, losses: Tensor, text: Text, labels: Tensor) -> Tensor:
        return losses[~text.padding].sum() / losses.numel()


class MasksPadding(Plain):
    def masks(self, text: Text, random: torch.Generator) -> Tensor:
        chance = torch.rand(text.ids.shape, generator=random)
        return (chance < MASK_SHARE) & ~torch.isin(text.ids, torch.tensor(SPECIAL[1:]))


class MasksSeparators(Plain):
    def masks(self, text: Text, random: torch.Generator) -> Tensor:
        return (torch.rand(text.ids.shape, generator=random) < MASK_SHARE) & ~text.padding


class LearnsAtEveryToken(Plain):
    def generator_loss(self, scores: Tensor, text: Text, masked: Tensor) -> Tensor:
        return cross_entropy(scores[~text.padding], text.ids[~text.padding])


class CountsReplacementsTwice(Plain):
    def discriminator_loss(self, losses: Tensor, text: Text, labels: Tensor) -> Tensor:
        return ((1 + labels) * losses)[~text.padding].mean()


class WeighsTheWrongWay(Flattened):
    def stated(self, scores: Tensor, drawn: Tensor) -> dict[str, Any]:
        return {"q": (scores / 1.5).softmax(-1), "weights": self.weight}

    def labels(self, replaced: Tensor, text: Text, masked: Tensor) -> Tensor:
        found = super().labels(replaced, text, masked)
        self.weight = 1 / self.weight
        return found


class ForgetsItsWeights(Flattened):
    """States weights that its loss does not use."""

    def discriminator_loss(self, losses: Tensor, text: Text, labels: Tensor) -> Tensor:
        return losses[~text.padding].mean()


SOUND: tuple[type[Plain], ...] = (Plain, Flattened, LeavesSpecialTokensOut, ShowsItsDrawsOnlyToTheDiscriminator)

BROKEN: dict[type[Plain], set[str]] = {
    TakesTheLikeliest: {"draws", "seeds"},
    DrawsTooFlat: {"draws"},
    DrawsUniformly: {"draws", "impossible"},
    NeverDrawsTheOriginal: {"draws"},
    DrawsOnceForTheBatch: {"draws"},
    DrawsByTheMeanOfAllPositions: {"draws", "unmasked scores"},
    DrawsTheSameForEverySeed: {"draws", "seeds"},
    DrawsOthersForTheSameSeed: {"seeds"},
    LabelsWhatWasMasked: {"labels"},
    LabelsAgainstTheMaskedText: {"labels"},
    ReadsTheOriginals: {"reads"},
    ReadsOriginalsUnseen: {"reads", "draws", "labels", "seeds"},
    ReadsTheMasks: {"reads"},
    ReadsTheLikeliestEverywhere: {"unmasked tokens", "unmasked scores"},
    LetsTheGradientThrough: {"no leak"},
    CountsPadding: {"padding"},
    DividesByAllPositions: {"padding"},
    MasksPadding: {"padding", "special tokens"},
    MasksSeparators: {"special tokens"},
    LearnsAtEveryToken: {"generator loss", "unmasked scores"},
    CountsReplacementsTwice: {"token loss"},
    WeighsTheWrongWay: {"weights"},
    ForgetsItsWeights: {"token loss"},
}
"""Which promises each breaks, and no other."""
