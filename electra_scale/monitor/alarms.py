"""A plain sentence when a run shows a known signature of failure, once for each time that it appears."""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOGGED, LONG = 20, 100
"""Logged steps that a judgement rests on: single batches are noisy, and the largest of many weights is most of all."""

PROBES = 3
"""Probes or evaluations that a judgement rests on: of three, two must agree for their median to."""

SETTLING_STEPS = 500
"""Joint steps before a sampling head is judged; in the tiny recipe it has its rank correlation well before."""

DETECTION_STEPS = 1000
"""Joint steps before a discriminator is judged; in the tiny recipe AUC passes 0.55 before."""

ACCURACY, ACCURACY_OVER = 0.9, 0.85
"""A generator that guesses nine of ten masked tokens leaves the discriminator a tenth of them to learn from."""

IDENTICAL, IDENTICAL_OVER = 0.9, 0.85
"""The same bound for draws: the rest of them is all that is replaced."""

ESS, ESS_OVER = 0.2, 0.3
"""The ideal q for a generator that is right three times in four has about 0.24; below, weights are mostly noise."""

NEAR_BOUND, NEAR_BOUND_OVER = 0.99, 0.95
"""Share of the bound 1 / mixture: from here on it is the mixture alone that holds the largest weight."""

CORRELATION, CORRELATION_OVER = 0.02, 0.05
"""A within-position correlation that a probe of some hundred positions can't tell from 0."""

CHANCE, CHANCE_OVER = 0.52, 0.53
"""0.5 and five standard errors (0.004) of an evaluation of the tiny recipe."""

RATIO, RATIO_OVER = 1.05, 1.0
"""A variance ratio above 1 by more than the probe's own error at the shipped sizes."""

SPIKE_WINDOW, SPIKE_LEAST = 50, 20
"""Logged steps that a spike stands out from, and how many of them must be there."""

SPIKE_DEVIATIONS, SPIKE_SHARE = 8.0, 0.1
"""A spike lies above the median by so many robust standard deviations, and by that share of it: a loss that hardly
moves has tiny deviations, and a small batch has large ones."""

SPIKING = ("loss/discriminator", "loss/generator")


@dataclass(frozen=True)
class Signature:
    """A metric whose median over the last ``window`` values lies beyond ``bound``, after step ``after``.

    It is over once the median is past ``over`` on the other side. ``text`` may use {value}, the median, and {since},
    the first step of the window that is beyond the bound.
    """

    tag: str
    above: bool
    bound: float
    over: float
    window: int
    text: str
    after: int = 0


def signatures(
    learns: bool,
    weight_bound: float,
    evaluates: bool,
    probes: bool,
    warmup_steps: int,
    joint_from: int,
    sampler_from: int,
) -> list[Signature]:
    """What to watch in a run.

    ``learns``: the sampler has a head. ``weight_bound``: largest weight that its mixture allows, inf without one, 0 if
    no weights are used. ``evaluates``: there is held-out text. ``probes``: the variance probe is on. ``warmup_steps``
    of the learning rate, and ``joint_from`` and ``sampler_from``, the steps at which the joint phase begins and at
    which the sampler's own draws do, put off what needs time.
    """
    calmer = "Raise objective.mixture, or lower objective.head.learning_rate_scale"
    if not learns:
        calmer = "Lower objective.temperature"
    found = [
        Signature(
            "gen/accuracy",
            above=True,
            bound=ACCURACY,
            over=ACCURACY_OVER,
            window=LOGGED,
            text="the generator is too strong: it guesses {value:.0%} of the masked tokens, since step {since}. Make "
            "it narrower (model.generator), slow it down (optimizer.generator_rate) or mask more (data.mask_share).",
        ),
        Signature(
            "sampling/identical_rate",
            above=True,
            bound=IDENTICAL,
            over=IDENTICAL_OVER,
            window=LOGGED,
            text="{value:.0%} of the draws equal the original token, since step {since}, so that almost nothing is "
            "replaced. Use objective.sampler hp_loss with head.own_token, raise objective.focal_gamma, or make the "
            "generator narrower.",
        ),
        Signature(
            "disc_loss_variance/draw_ratio",
            above=True,
            bound=RATIO,
            over=RATIO_OVER,
            window=PROBES,
            text="the sampler makes the discriminator's loss noisier: its variance over draws is {value:.2f} times "
            f"that of the generator's own draws, since step {{since}}. {calmer}, or go back to "
            "objective.sampler electra.",
        ),
    ]
    if weight_bound:
        found.append(
            Signature(
                "sampling/ess",
                above=False,
                bound=ESS,
                over=ESS_OVER,
                window=LOGGED,
                text="the weights explode: the effective sample size is {value:.2f} of the draws, since step {since}. "
                f"{calmer}.",
            )
        )
    if weight_bound and math.isfinite(weight_bound) and weight_bound > 1:
        found.append(
            Signature(
                "sampling/weight_max",
                above=True,
                bound=NEAR_BOUND * weight_bound,
                over=NEAR_BOUND_OVER * weight_bound,
                window=LONG,
                text="the largest weight is {value:.1f}, at the bound that objective.mixture sets, since step {since}: "
                "the head gives some tokens almost no hardness. Harmless while sampling/ess is above a half; else "
                "raise objective.mixture or objective.head.floor, or lower objective.head.learning_rate_scale.",
            )
        )
    if learns:
        found.append(
            Signature(
                "sampling/hardness_rank_correlation_within" if probes else "sampling/hardness_rank_correlation",
                above=False,
                bound=CORRELATION,
                over=CORRELATION_OVER,
                window=PROBES if probes else LOGGED,
                text="the predicted hardness says nothing about the discriminator's loss: rank correlation "
                "{value:.2f}, since step {since}. Raise objective.head.learning_rate_scale or objective.head.width, "
                "turn head.own_token on, or save the head's cost with objective.sampler electra.",
                after=sampler_from + max(SETTLING_STEPS, warmup_steps),
            )
        )
    found.append(
        Signature(
            "eval/auc" if evaluates else "disc/auc",
            above=False,
            bound=CHANCE,
            over=CHANCE_OVER,
            window=PROBES if evaluates else LOGGED,
            text="the discriminator is stuck at chance: AUC {value:.3f}, since step {since}. Lower "
            "optimizer.learning_rate, slow the generator down (optimizer.generator_rate), or mask more "
            "(data.mask_share).",
            after=joint_from + max(DETECTION_STEPS, warmup_steps),
        )
    )
    return found


@dataclass
class _Watch:
    signature: Signature
    recent: deque[tuple[int, float]]
    raised: bool = False


@dataclass
class _SpikeWatch:
    """A loss that jumps out of its recent past; one sentence until it is back."""

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=SPIKE_WINDOW))
    raised: bool = False

    def see(self, step: int, tag: str, value: float | None) -> str | None:
        if value is None or not math.isfinite(value):
            return None
        before, usual = self.raised, 0.0
        if len(self.recent) >= SPIKE_LEAST:
            usual = statistics.median(self.recent)
            # 1.4826 makes the median deviation of a normal distribution its standard deviation.
            deviation = 1.4826 * statistics.median(abs(value - usual) for value in self.recent)
            self.raised = value - usual > max(SPIKE_DEVIATIONS * deviation, SPIKE_SHARE * usual)
        self.recent.append(value)
        if before or not self.raised:
            return None
        return (
            f"alarm at step {step}: {tag} jumped to {value:.4g} from about {usual:.4g}. A single jump is harmless if "
            "it comes back within some tens of steps; if they come often, lower optimizer.learning_rate or "
            "optimizer.clip, or look at the data of that step."
        )


@dataclass
class Alarms:
    """Reads the metrics of a run, row by row, and says a sentence when a signature appears.

    There is no state to save: a run that goes on reads the rows before it again (:meth:`read`).
    """

    signatures: list[Signature]
    _watches: list[_Watch] = field(init=False)
    _spikes: dict[str, _SpikeWatch] = field(init=False)
    _joint: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._forget_losses()
        self._watches = [_Watch(signature, deque(maxlen=signature.window)) for signature in self.signatures]

    def see(self, step: int, values: Mapping[str, float | None]) -> list[str]:
        """Sentences for the row of a step; usually none. Missing and non-finite values are passed over."""
        found = [self._judge(watch, step, values.get(watch.signature.tag)) for watch in self._watches]
        joint = "loss/discriminator" in values
        if joint != self._joint:
            # The phases mask differently, so their losses are not to be compared.
            self._joint = joint
            self._forget_losses()
        found += [watch.see(step, tag, values.get(tag)) for tag, watch in self._spikes.items()]
        return [sentence for sentence in found if sentence]

    def _forget_losses(self) -> None:
        self._spikes = {tag: _SpikeWatch() for tag in SPIKING}

    def read(self, rows: Path) -> None:
        """Take in the rows of a metrics file without a word: whoever started the run was told."""
        if rows.is_file():
            for line in rows.read_text().splitlines():
                row = json.loads(line)
                self.see(row["step"], row)

    def _judge(self, watch: _Watch, step: int, value: float | None) -> str | None:
        signature = watch.signature
        if value is None or not math.isfinite(value) or step <= signature.after:
            return None
        watch.recent.append((step, value))
        if len(watch.recent) < signature.window:
            return None
        median = statistics.median(value for _, value in watch.recent)
        sign = 1 if signature.above else -1
        if watch.raised:
            watch.raised = sign * (median - signature.over) > 0
            return None
        watch.raised = sign * (median - signature.bound) > 0
        if not watch.raised:
            return None
        since = next(step for step, value in watch.recent if sign * (value - signature.bound) > 0)
        return f"alarm at step {step}: {signature.text.format(value=median, since=since)}"
