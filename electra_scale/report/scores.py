"""Scores that the page shows: evaluations, fine-tuning, and the variance probe as a command."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_scale.export.scores import Evaluation, Tuned, number, read_all, read_scores


@dataclass(frozen=True)
class Probe:
    """Ratios that ``electra-scale probe`` wrote of a step, with their standard errors."""

    step: int
    ratio: float
    error: float


@dataclass(frozen=True)
class Shown:
    """All of them; ``unread``: a line for each file that could not be read."""

    evaluations: tuple[Evaluation, ...]
    tuned: tuple[Tuned, ...]
    probes: tuple[Probe, ...]
    unread: tuple[str, ...]


def shown_scores(run: Path) -> Shown:
    """The scores under a run folder, of the newest step for each probe and model."""
    found = read_scores(run)
    newest: dict[tuple[str, str, bool], Evaluation] = {}
    for each in found.evaluations:
        key = (each.probe, each.variant, each.random)
        if key not in newest or (each.step or 0) >= (newest[key].step or 0):
            newest[key] = each
    unread = list(found.unread)
    probes = read_all(run, sorted((run / "probe").glob("step-*.json")), _probe, unread)
    return Shown(
        tuple(sorted(newest.values(), key=lambda each: each.random)),
        tuple(sorted(found.tuned, key=lambda each: (each.task, each.random))),
        tuple(sorted((each for each in probes if each), key=lambda each: each.step)),
        tuple(unread),
    )


def _probe(_: str, content: dict[str, Any]) -> Probe | None:
    figures = content["figures"]
    ratio, error = number(figures.get("draw_ratio")), number(figures.get("draw_ratio_error"))
    return None if math.isnan(ratio) or math.isnan(error) else Probe(int(content["step"]), ratio, error)
