"""Alarms: rows of metrics go in; a sentence comes out each time that a known signature of bad training appears."""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOGGED, LONG = 20, 100
"""Logged steps that an alarm looks at: single batches are noisy, and the largest of many weights is the noisiest."""

PROBES = 3
"""Probes or evaluations that an alarm looks at: the median of three is beyond a bound only if two of them are."""

SETTLING_STEPS = 500
"""Joint steps before a sampling head is watched; in the tiny recipe it reaches its rank correlation well before."""

DETECTION_STEPS = 1000
"""Joint steps before a discriminator is watched; in the tiny recipe its AUC passes 0.55 earlier."""

ACCURACY, ACCURACY_OVER = 0.9, 0.85
"""A generator that guesses nine of ten masked tokens leaves the discriminator a tenth of them to learn from."""

IDENTICAL, IDENTICAL_OVER = 0.9, 0.85
"""The same bound for draws: only the rest of them replaces anything."""

ESS, ESS_OVER = 0.2, 0.3
"""The ideal q for a generator that is right three times in four has about 0.24; below, weights are mostly noise."""

NEAR_BOUND, NEAR_BOUND_OVER = 0.99, 0.95
"""Share of the bound 1 / mixture: a largest weight above it is limited by the mixture alone."""

CORRELATION, CORRELATION_OVER = 0.02, 0.05
"""A within-position correlation that a probe of some hundred positions cannot distinguish from 0."""

CHANCE, CHANCE_OVER = 0.52, 0.53
"""0.5 plus five standard errors (0.004 each) of an evaluation of the tiny recipe."""

RATIO, RATIO_OVER = 1.05, 1.0
"""A variance ratio above 1 by more than the standard error of a probe of the shipped size."""

SPIKE_WINDOW, SPIKE_LEAST = 50, 20
"""Logged steps with which a spike is compared, and the least number of them that must exist."""

SPIKE_DEVIATIONS, SPIKE_SHARE = 8.0, 0.1
"""A spike exceeds the median by this many robust standard deviations, and by this share of the median: the deviations
of a loss that hardly moves are tiny, and those of a small batch are large."""

SPIKING = ("loss/discriminator", "loss/generator")


@dataclass(frozen=True)
class Signature:
    """A metric whose median over the last ``window`` values lies beyond ``bound``, after step ``after``.

    An episode ends once the median is back past ``over``. ``text`` may use {value}, the median, and {since}, the first
    step of the window that is beyond the bound.
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
    other_objective: bool = False,
) -> list[Signature]:
    """What to watch in a run.

    Args:
        learns: the sampler has a head that learns.
        weight_bound: largest weight that the sampler's mixture allows; inf without a mixture, 0 without weights.
        evaluates: the store has held-out text.
        probes: the variance probe is on.
        warmup_steps: of the learning rate; until then neither head nor discriminator is watched.
        joint_from: the step at which the joint phase begins.
        sampler_from: the step at which the sampler's own draws begin.
        other_objective: the expected loss is not that of draws from p, so that the two variances of a probe are of
            different losses and neither is the noise of the other.
    """
    calmer = "Raise corruption.mixture, or lower corruption.head.learning_rate_scale"
    if not learns:
        calmer = "Lower corruption.temperature"
    found = [
        Signature(
            "gen/accuracy",
            above=True,
            bound=ACCURACY,
            over=ACCURACY_OVER,
            window=LOGGED,
            text="the generator is too strong: it guesses {value:.0%} of the masked tokens, since step {since}. Slow "
            "it down (optimizer.generator_rate), mask more (data.mask_share), or make it narrower in a new run "
            "(model.generator).",
        ),
        Signature(
            "sampling/identical_rate",
            above=True,
            bound=IDENTICAL,
            over=IDENTICAL_OVER,
            window=LOGGED,
            text="{value:.0%} of the draws equal the original token, since step {since}, so that almost nothing is "
            "replaced. Use corruption.sampler hp_loss with corruption.head.own_token, raise corruption.focal_gamma, or "
            "make the generator narrower in a new run.",
        ),
    ]
    if not other_objective:
        found.append(
            Signature(
                "disc_loss_variance/draw_ratio",
                above=True,
                bound=RATIO,
                over=RATIO_OVER,
                window=PROBES,
                text="the sampler makes the discriminator's loss noisier: its variance over draws is {value:.2f} times "
                f"that of the generator's own draws, since step {{since}}. {calmer}, or go back to "
                "corruption.sampler electra.",
            )
        )
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
                text="the largest weight is {value:.1f}, at the bound that corruption.mixture sets, since step "
                "{since}: the head gives some tokens almost no hardness. This is harmless while sampling/ess is above "
                "0.5; else raise corruption.mixture or corruption.head.floor, or lower "
                "corruption.head.learning_rate_scale.",
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
                text="the predicted hardness is unrelated to the discriminator's loss: their rank correlation is "
                "{value:.2f}, since step {since}. Raise corruption.head.learning_rate_scale or corruption.head.width, "
                "turn corruption.head.own_token on, or save the cost of the head with corruption.sampler electra.",
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
    """A signature and the recent values of its metric, with their steps."""

    signature: Signature
    recent: deque[tuple[int, float]]
    raised: bool = False


@dataclass
class _SpikeWatch:
    """A loss that jumps out of its recent values; one sentence until it is back."""

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=SPIKE_WINDOW))
    raised: bool = False

    def see(self, step: int, tag: str, value: float | None) -> str | None:
        if value is None or not math.isfinite(value):
            return None
        before, usual = self.raised, 0.0
        if len(self.recent) >= SPIKE_LEAST:
            usual = statistics.median(self.recent)
            # For a normal distribution 1.4826 times the median absolute deviation is the standard deviation.
            deviation = 1.4826 * statistics.median(abs(value - usual) for value in self.recent)
            self.raised = value - usual > max(SPIKE_DEVIATIONS * deviation, SPIKE_SHARE * usual)
        self.recent.append(value)
        if before or not self.raised:
            return None
        return (
            f"alarm at step {step}: {tag} jumped to {value:.4g} from about {usual:.4g}. A single jump is harmless if "
            "the loss is back within some tens of steps; if jumps are frequent, lower optimizer.learning_rate or "
            "optimizer.clip, or look at the data of that step."
        )


@dataclass
class Alarms:
    """Watches the metrics of a run, row by row, and gives a sentence when a signature appears.

    It has no state to save: a run that resumes reads its earlier rows again (:meth:`read`).
    """

    signatures: list[Signature]
    _watches: list[_Watch] = field(init=False)
    _spikes: dict[str, _SpikeWatch] = field(init=False)
    _joint: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._forget_losses()
        self._watches = [_Watch(signature, deque(maxlen=signature.window)) for signature in self.signatures]

    def see(self, step: int, values: Mapping[str, float | None]) -> list[str]:
        """The alarms for the row of a step, usually none. Missing and non-finite values are ignored."""
        found = [self._check(watch, step, values.get(watch.signature.tag)) for watch in self._watches]
        joint = "loss/discriminator" in values
        if joint != self._joint:
            # The phases mask differently, so their losses cannot be compared.
            self._joint = joint
            self._forget_losses()
        found += [watch.see(step, tag, values.get(tag)) for tag, watch in self._spikes.items()]
        return [sentence for sentence in found if sentence]

    def _forget_losses(self) -> None:
        self._spikes = {tag: _SpikeWatch() for tag in SPIKING}

    def read(self, rows: Path) -> None:
        """Read the earlier rows of a run from its metrics file; their alarms were given when the rows were written."""
        if rows.is_file():
            for line in rows.read_text().splitlines():
                row = json.loads(line)
                self.see(row["step"], row)

    def _check(self, watch: _Watch, step: int, value: float | None) -> str | None:
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
