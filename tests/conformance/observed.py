"""Steps that a trainer is asked to make, once for all promises."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from tests.conformance.trainer import CLS, IMPOSSIBLE, PAD, SEP, VOCABULARY, Step, Text, Trainer

ROWS, POSITIONS = 64, 16
SEEDS = 12
MORE_PADDING = 9


@dataclass(frozen=True)
class Observed:
    """What a trainer did.

    ``steps`` with the seeds 0, 1 and so on, on one ``text``; ``again`` once more with the first seed; ``disturbed``
    with the first seed and other generator's scores wherever the first step did not mask; ``padded`` with the first
    seed and more padding.
    """

    text: Text
    steps: list[Step]
    again: Step
    disturbed: Step
    padded: Step

    @property
    def first(self) -> Step:
        return self.steps[0]


def observe(trainer: Trainer) -> Observed:
    """Have a trainer make all steps that the promises are checked on."""
    threads = torch.get_num_threads()
    # Steps are so small that threads would wait for each other most of the time.
    torch.set_num_threads(1)
    try:
        return _observed(trainer)
    finally:
        torch.set_num_threads(threads)


def _observed(trainer: Trainer) -> Observed:
    text = make_text()
    steps = [trainer.step(text, seed) for seed in range(SEEDS)]
    noise = 3 * torch.randn(text.generator_scores.shape, generator=torch.Generator().manual_seed(7))
    elsewhere = text.generator_scores + noise * ~steps[0].masked[..., None]
    return Observed(
        text,
        steps,
        again=trainer.step(text, 0),
        disturbed=trainer.step(replace(text, generator_scores=elsewhere), 0),
        padded=trainer.step(with_padding(text), 0),
    )


def make_text() -> Text:
    """Rows of ordinary tokens, every other one padded. Text and p differ between positions and are the same in every
    row, so that draws of all rows can be counted together. At padding scores are large, so that counting it shows."""
    random = torch.Generator().manual_seed(3)
    column = torch.randint(4, IMPOSSIBLE, (POSITIONS,), generator=random)
    ids = column.expand(ROWS, -1).clone()
    padding = torch.zeros(ROWS, POSITIONS, dtype=torch.bool)
    padding[1::2, -4:] = True
    ids[:, 0] = CLS
    last = (~padding).sum(-1) - 1
    ids[torch.arange(ROWS), last] = SEP
    ids[padding] = PAD
    scores = torch.randn(POSITIONS, VOCABULARY, generator=random)
    scores[torch.arange(POSITIONS), column] += 1.5
    scores[:, IMPOSSIBLE] = -60.0
    scores = scores.expand(ROWS, -1, -1).clone()
    return _loud_at_padding(Text(ids, padding, scores, torch.randn(ROWS, POSITIONS, generator=random)))


def with_padding(text: Text) -> Text:
    """The same rows with more padding behind them."""
    more = Text(
        pad(text.ids, (0, MORE_PADDING), value=PAD),
        pad(text.padding, (0, MORE_PADDING), value=True),
        pad(text.generator_scores, (0, 0, 0, MORE_PADDING)),
        pad(text.discriminator_scores, (0, MORE_PADDING)),
    )
    return _loud_at_padding(more)


def _loud_at_padding(text: Text) -> Text:
    # Of both signs, so that whatever a label at padding is, some are far off.
    loud = 30.0 * (-1.0) ** torch.arange(text.ids.shape[1])
    scores = torch.where(text.padding, loud, text.discriminator_scores)
    generator = text.generator_scores.clone()
    generator[text.padding] = 0.0
    generator[..., 5] += 20.0 * text.padding
    return replace(text, generator_scores=generator, discriminator_scores=scores)


def distribution(step: Step) -> Tensor:
    """(B,S,V) float64 p, what the weights of a step refer to."""
    if step.p is not None:
        return step.p.double()
    assert step.generator_scores is not None
    return step.generator_scores.double().softmax(-1)


def drawn_from(step: Step) -> Tensor:
    """(B,S,V) float64, what a step says that it draws from."""
    return distribution(step) if step.q is None else step.q.double()


def draws(step: Step) -> Tensor:
    """(B,S) tokens that a step has at its masked positions."""
    return step.read if step.drawn is None else step.drawn
