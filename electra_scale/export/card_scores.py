"""The scores that a model card has: those of its weights, beside those of random weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.progress import counted
from electra_scale.export.scores import Evaluation, Tuned, read_scores


@dataclass(frozen=True)
class Figure:
    """A figure of a probe with its standard error, and that of random weights where it was measured as well."""

    name: str
    value: float
    error: float | None = None
    count: int | None = None
    chance: float | None = None
    random: float | None = None


@dataclass(frozen=True)
class Probed:
    """A probe of the weights. ``variant`` is the probe with what tells its results apart, ``by`` the network scored."""

    probe: str
    variant: str
    by: str
    figures: list[Figure]


@dataclass(frozen=True)
class TunedOn:
    """A task that the weights were fine-tuned on, and the means of random weights by metric."""

    tuned: Tuned
    random: Mapping[str, float]


@dataclass(frozen=True)
class CardScores:
    """Scores of the weights of a step, and sentences about files that are not used."""

    probes: list[Probed]
    tasks: list[TunedOn]
    notes: list[str]


def scores_of(run: Path, step: int) -> CardScores:
    """What ``run`` holds for the weights of ``step``, in ``evaluation/`` and ``finetune/``."""
    found = read_scores(run)
    notes = [f"Left out: {line}." for line in found.unread]
    everything: list[Evaluation | Tuned] = [*found.evaluations, *found.tuned]
    other = [each.file for each in everything if each.step not in (step, None)]
    if other:
        notes.append(f"{counted(len(other), 'result')} of other steps than {step} left out, such as {min(other)}.")
    probes = [each for each in found.evaluations if each.step == step]
    tasks = [each for each in found.tuned if each.step == step]
    by_chance = {(each.probe, each.variant): each for each in probes if each.random}
    random_tasks = {each.task: each.mean for each in tasks if each.random}
    return CardScores(
        [_probed(each, by_chance.get((each.probe, each.variant))) for each in probes if not each.random],
        [TunedOn(each, random_tasks.get(each.task, {})) for each in tasks if not each.random],
        notes,
    )


def _probed(found: Evaluation, drawn: Evaluation | None) -> Probed:
    random = {} if drawn is None else {score.name: score.value for score in drawn.scores}
    figures = [
        Figure(each.name, each.value, each.error, each.count, each.chance, random.get(each.name))
        for each in found.scores
        if not math.isnan(each.value)
    ]
    return Probed(found.probe, f"{found.probe}-{found.variant}".strip("-"), found.by, figures)
