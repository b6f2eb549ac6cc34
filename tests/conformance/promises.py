"""The promises, each a check of what a trainer was observed to do, with the figures that it rests on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from scipy.stats import chi2
from torch import Tensor

from tests.conformance.observed import Observed, distribution, drawn_from, draws, with_padding
from tests.conformance.trainer import IGNORED, MASK, SPECIAL, Step, Text

FALSE_ALARMS = 1e-6
"""How often a trainer that draws from the right distribution would be found not to, over all seeds that there are."""

CLOSE = 1e-4
"""Relative difference up to which figures in float32 count as equal."""

RULED_OUT = 1e-12
"""A token with less probability is never seen in any number of draws that one could wait for."""

FEW = 5.0
"""Tokens that are expected less often are counted together, or chi-square would not hold."""

Outcome = Literal["kept", "broken", "unseen", "absent"]


@dataclass(frozen=True)
class Finding:
    """Whether a promise is kept, by which ``figures``; ``why`` it cannot be seen, or does not concern a trainer."""

    outcome: Outcome
    figures: dict[str, float] = field(default_factory=dict)
    why: str = ""


def found(kept: bool, **figures: float) -> Finding:
    return Finding("kept" if kept else "broken", figures)


NO_GENERATOR = Finding("absent", why="it has no generator")
OTHER_STEP = Finding("unseen", why="the same seed does not give the same step")


def draws_follow_the_distribution(seen: Observed) -> Finding:
    """Replacements are drawn from p, or from the q that the trainer states, at each position, over all seeds."""
    shape = drawn_from(seen.first).shape[1:]
    counts, expected = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for step in seen.steps:
        position = step.masked.nonzero()[:, 1]
        tokens = draws(step)[step.masked]
        counts.index_put_((position, tokens), torch.ones(len(tokens), dtype=torch.float64), accumulate=True)
        expected.index_add_(0, position, drawn_from(step)[step.masked])
    statistic, freedom = 0.0, 0
    for has, wants in zip(counts, expected, strict=True):
        if wants.sum() < 2 * FEW:
            continue
        many = wants >= FEW
        has, wants = (torch.cat([one[many], one[~many].sum()[None]]) for one in (has, wants))
        # So few in all that even together they are rare are left out of the sum, and seen by the next promise.
        enough = wants >= 1.0
        statistic += float(((has - wants).square() / wants)[enough].sum())
        freedom += int(enough.sum()) - 1
    if not freedom:
        return Finding("unseen", why="it masked too few positions")
    chance = float(chi2.sf(statistic, freedom))
    ratio = torch.where(counts > 0, (counts / expected).log() * counts, 0.0).sum() / counts.sum()
    return found(chance >= FALSE_ALARMS, kl=float(ratio), chance=chance, draws=float(counts.sum()))


def nothing_impossible_is_drawn(seen: Observed) -> Finding:
    """A token that p rules out is never drawn; the figures say how often [MASK] was, and how often it should be."""
    impossible, wanted, masks, total = 0, 0.0, 0, 0
    for step in seen.steps:
        tokens, q = draws(step)[step.masked], drawn_from(step)[step.masked]
        impossible += int((q.gather(1, tokens[:, None]) < RULED_OUT).sum())
        masks += int((tokens == MASK).sum())
        wanted += float(q[:, MASK].sum())
        total += len(tokens)
    return found(impossible == 0 and total > 0, impossible=impossible, masks=masks, masks_expected=wanted, draws=total)


def weights_are_p_over_q(seen: Observed) -> Finding:
    """A draw from another distribution than p has the weight w = p/q, whose expectation is then 1."""
    if seen.first.generator_scores is None:
        return NO_GENERATOR
    if all(step.q is None and step.weights is None for step in seen.steps):
        return Finding("absent", why="it draws from p, and weights nothing")
    worst, sums = 0.0, []
    for step in seen.steps:
        tokens = draws(step)[step.masked][:, None]
        p, q = (one[step.masked].gather(1, tokens)[:, 0] for one in (distribution(step), drawn_from(step)))
        has = torch.ones_like(p) if step.weights is None else step.weights[step.masked].double()
        worst = max(worst, float((has * q / p - 1).abs().max()))
        # E_q[w] by enumeration: what weights that are p/q at the draw come to over the vocabulary.
        p, q = distribution(step)[step.masked], drawn_from(step)[step.masked]
        sums.append(torch.where(q > 0, p, 0.0).sum(-1))
    off = float((torch.cat(sums) - 1).abs().max())
    return found(worst <= 10 * CLOSE and off <= CLOSE, worst_weight=worst, expectation_off=off)


def labels_are_by_identity(seen: Observed) -> Finding:
    """A label says whether the token is another one than the text's: a draw of the original counts as original."""
    wrong, total, all_originals, wrong_originals = 0, 0, 0, 0
    for step in seen.steps:
        counted = ~seen.text.padding & (step.labels != IGNORED)
        tokens = torch.where(step.masked, draws(step), seen.text.ids)
        bad = (step.labels != (tokens != seen.text.ids).to(step.labels.dtype)) & counted
        originals = counted & step.masked & (tokens == seen.text.ids)
        wrong, total = wrong + int(bad.sum()), total + int(counted.sum())
        all_originals += int(originals.sum())
        wrong_originals += int((bad & originals).sum())
    figures = {"wrong_share": wrong / max(total, 1), "wrong_originals": wrong_originals, "originals": all_originals}
    return found(wrong == 0 and total > 0, **figures)


def the_discriminator_reads_the_replacements(seen: Observed) -> Finding:
    """The discriminator's ids have the draws in place; where these cannot be seen, none that is labelled replaced is
    shown as the original."""
    wrong, total = 0, 0
    for step in seen.steps:
        bad = (step.labels == 1) & (step.read == seen.text.ids) if step.drawn is None else step.read != step.drawn
        bad &= step.masked
        wrong, total = wrong + int(bad.sum()), total + int(step.masked.sum())
    return found(wrong == 0 and total > 0, unread_share=wrong / max(total, 1))


def no_gradient_goes_through_the_draw(seen: Observed) -> Finding:
    """The discriminator's loss has no gradient in what is the generator's alone."""
    if seen.first.leak is None:
        return (
            NO_GENERATOR if seen.first.generator_scores is None else Finding("unseen", why="its losses are not apart")
        )
    largest = max(step.leak or 0.0 for step in seen.steps)
    return found(largest == 0.0, leak=largest)


def each_token_counts_as_it_should(seen: Observed) -> Finding:
    """The discriminator's loss is the cross-entropy of its labels; each token counts once, a draw w times."""
    spread, counted = 0.0, 0
    for step in seen.steps:
        factors = _factors(step, seen.text)
        spread = max(spread, float((factors.max() - factors.min()) / factors.mean().abs()))
        counted += len(factors)
    return found(spread <= 10 * CLOSE and counted > 0, spread_of_factors=spread)


def padding_never_counts(seen: Observed) -> Finding:
    """No loss and no gradient comes from padding, and more of it changes neither."""
    more, longer = seen.padded, with_padding(seen.text)
    pairs = ((seen.first, seen.text), (more, longer))
    figures = {
        "gradient_share": max(_share(step.discriminator_gradient.abs(), text.padding) for step, text in pairs),
        "loss_changes": _change([_discriminator_scale(step, text) for step, text in pairs]),
    }
    if seen.first.generator_gradient is not None:
        shares = [
            _share(step.generator_gradient.abs().sum(-1), text.padding)
            for step, text in pairs
            if step.generator_gradient is not None
        ]
        figures["generator_gradient_share"] = max(shares)
        figures["generator_loss_changes"] = _change([_generator_scale(step, text) for step, text in pairs])
    if seen.first.gradients:
        # Draws that are the same whatever else is in the batch stay so, or padding got into what they come from.
        changed = (seen.first.read != more.read[:, : seen.text.ids.shape[1]]) & ~seen.text.padding
        figures["tokens_changed"] = float(changed.double().mean())
        if not changed.any():
            figures["gradient_changes"] = max(
                float((more.gradients[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-6))
                for name, gradient in seen.first.gradients.items()
            )
    return found(all(value <= CLOSE for value in figures.values()), **figures)


def unmasked_tokens_stay(seen: Observed) -> Finding:
    """Positions that are not masked are read as the text has them, and are labelled original."""
    changed, labelled, total = 0, 0, 0
    for step in seen.steps:
        others = ~step.masked & ~seen.text.padding
        changed += int((others & (step.read != seen.text.ids)).sum())
        labelled += int((others & (step.labels == 1)).sum())
        total += int(others.sum())
    share = max(total, 1)
    return found(changed == labelled == 0, changed_share=changed / share, labelled_share=labelled / share)


def unmasked_scores_have_no_influence(seen: Observed) -> Finding:
    """What the generator says about positions that are not masked changes nothing: no draw, label, loss, gradient."""
    first, other = seen.first, seen.disturbed
    if first.generator_scores is None or first.generator_gradient is None or other.generator_gradient is None:
        return NO_GENERATOR
    if not _same(first, seen.again):
        return OTHER_STEP
    differing = (first.read != other.read) | (first.labels != other.labels)
    at = first.masked
    gradient = float((first.generator_gradient[at] - other.generator_gradient[at]).abs().max())
    loss = max(
        abs((first.generator_loss or 0.0) - (other.generator_loss or 0.0)),
        abs(first.discriminator_loss - other.discriminator_loss),
    )
    kept = not differing.any() and gradient <= CLOSE * float(first.generator_gradient.abs().max()) and loss <= CLOSE
    return found(kept, tokens_changed=float(differing.double().mean()), loss_change=loss)


def the_generator_learns_at_masked_positions_only(seen: Observed) -> Finding:
    """The generator's loss has a gradient at every masked position and at no other."""
    if seen.first.generator_gradient is None:
        return NO_GENERATOR
    outside, missed, total = 0, 0, 0
    for step in seen.steps:
        assert step.generator_gradient is not None
        reached = step.generator_gradient.abs().sum(-1) > 0
        outside += int((reached & ~step.masked).sum())
        missed += int((step.masked & ~reached).sum())
        total += int(step.masked.sum())
    return found(outside == missed == 0 and total > 0, outside=outside, missed=missed, masked=total)


def special_tokens_are_not_masked(seen: Observed) -> Finding:
    """[CLS], [SEP] and padding are never masked."""
    if seen.first.masks_are_given:
        return Finding("unseen", why="its masks come with the data")
    special = torch.isin(seen.text.ids, torch.tensor(SPECIAL))
    masked = sum(int((step.masked & special).sum()) for step in seen.steps)
    return found(masked == 0, special_masked=masked)


def seeds_decide(seen: Observed) -> Finding:
    """The same seed gives the same masks and draws; another one gives other draws, at positions that both mask too."""
    equal, both = 0, 0
    for one, other in itertools.pairwise(seen.steps):
        at = one.masked & other.masked
        equal, both = equal + int((draws(one)[at] == draws(other)[at]).sum()), both + int(at.sum())
    same = _same(seen.first, seen.again)
    return found(same and equal < both, same_again=float(same), equal_to_next=equal / max(both, 1))


def _same(one: Step, other: Step) -> bool:
    """Whether two steps on one text have the same masks and draws."""
    return torch.equal(one.masked, other.masked) and torch.equal(draws(one)[one.masked], draws(other)[one.masked])


def _weights(step: Step) -> Tensor:
    return torch.ones_like(step.discriminator_scores) if step.weights is None else step.weights


def _share(sizes: Tensor, where: Tensor) -> float:
    return float(sizes[where].sum() / sizes.sum().clamp(min=1e-30))


def _change(scales: list[float]) -> float:
    return abs(scales[1] / scales[0] - 1)


def _factors(step: Step, text: Text) -> Tensor:
    """(N,) the gradient of each token of the text that has a label, by that of its own weighted cross-entropy."""
    real = ~text.padding & (step.labels != IGNORED)
    wanted = _weights(step) * (step.discriminator_scores.sigmoid() - step.labels)
    return (step.discriminator_gradient / wanted)[real]


def _discriminator_scale(step: Step, text: Text) -> float:
    """What the discriminator's mean loss is multiplied by: the same whichever tokens were drawn."""
    factors = _factors(step, text)
    return float(factors.median()) * len(factors)


def _generator_scale(step: Step, text: Text) -> float:
    """The same of the generator's loss, over all positions that it reaches."""
    assert step.generator_scores is not None
    assert step.generator_gradient is not None
    wanted = step.generator_scores[step.masked].softmax(-1)
    wanted = wanted.scatter_add(1, text.ids[step.masked][:, None], -torch.ones(len(wanted), 1))
    factors = (step.generator_gradient[step.masked] * wanted).sum(-1) / wanted.square().sum(-1)
    return float(factors.median()) * int((step.generator_gradient.abs().sum(-1) > 0).sum())


PROMISES: dict[str, Callable[[Observed], Finding]] = {
    "draws": draws_follow_the_distribution,
    "impossible": nothing_impossible_is_drawn,
    "weights": weights_are_p_over_q,
    "labels": labels_are_by_identity,
    "reads": the_discriminator_reads_the_replacements,
    "no leak": no_gradient_goes_through_the_draw,
    "token loss": each_token_counts_as_it_should,
    "padding": padding_never_counts,
    "unmasked tokens": unmasked_tokens_stay,
    "unmasked scores": unmasked_scores_have_no_influence,
    "generator loss": the_generator_learns_at_masked_positions_only,
    "special tokens": special_tokens_are_not_masked,
    "seeds": seeds_decide,
}
"""By a word for tables."""
