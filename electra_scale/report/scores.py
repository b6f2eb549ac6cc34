"""Scores that other commands left in a run folder: evaluations, fine-tuning, and the variance probe as a command."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.errors import UserError
from data_pipeline.places.json_file import read_record

T = TypeVar("T")

_ADVICE = "write it anew with the command that made it"


@dataclass(frozen=True)
class Score:
    """One score of an evaluation. ``error`` is a standard error; ``chance`` what a model that knows nothing gets."""

    name: str
    value: float
    error: float | None
    count: int | None
    chance: float | None


@dataclass(frozen=True)
class Evaluation:
    """What ``electra-scale evaluate`` wrote of a probe.

    ``random``: of weights that were drawn anew. ``variant``: what tells it from others of its probe, such as a layer.
    """

    probe: str
    by: str
    step: int | None
    random: bool
    scores: tuple[Score, ...]
    variant: str = ""


@dataclass(frozen=True)
class Tuned:
    """What ``electra-scale finetune`` wrote of a task: the main metric of each seed, its mean and deviation."""

    task: str
    metric: str
    split: str
    step: int | None
    random: bool
    seeds: tuple[float, ...]
    mean: float
    deviation: float | None
    others: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Probe:
    """Ratios that ``electra-scale probe`` wrote of a step, with their standard errors."""

    step: int
    ratio: float
    error: float


@dataclass(frozen=True)
class Scores:
    """All of them; ``unread``: a line for each file that could not be read."""

    evaluations: tuple[Evaluation, ...]
    tuned: tuple[Tuned, ...]
    probes: tuple[Probe, ...]
    unread: tuple[str, ...]


def read_scores(run: Path) -> Scores:
    """The scores under a run folder, of the newest step for each probe and model."""
    unread: list[str] = []
    newest: dict[tuple[str, str, bool], Evaluation] = {}
    for path in sorted((run / "evaluation").glob("**/*.json")):
        for read in _all([path], _evaluation, unread):
            found = replace(read, variant=_variant(path, read.probe))
            key = (found.probe, found.variant, found.random)
            if key not in newest or (found.step or 0) >= (newest[key].step or 0):
                newest[key] = found
    tuned = _all(sorted((run / "finetune").glob("**/result.json")), _tuned, unread)
    probes = _all(sorted((run / "probe").glob("step-*.json")), _probe, unread)
    return Scores(
        tuple(sorted(newest.values(), key=lambda each: each.random)),
        tuple(sorted(tuned, key=lambda each: (each.task, each.random))),
        tuple(sorted((each for each in probes if each), key=lambda each: each.step)),
        tuple(unread),
    )


def _all(paths: list[Path], make: Callable[[dict[str, Any]], T], unread: list[str]) -> list[T]:
    found = []
    for path in paths:
        try:
            record = read_record(path, make, advice=_ADVICE)
        except UserError as error:
            unread.append(str(error))
            continue
        if record is not None:
            found.append(record)
    return found


def _variant(path: Path, probe: str) -> str:
    """What stands between the probe and the step in a file's name, ``PROBE-VARIANT-STEP.json``."""
    return path.stem.rpartition("-")[0].removeprefix(probe).strip("-")


def _evaluation(content: dict[str, Any]) -> Evaluation:
    scores = tuple(
        Score(
            str(score["name"]),
            _number(score["value"]),
            _optional(score.get("error")),
            None if score.get("count") is None else int(score["count"]),
            _optional(score.get("chance")),
        )
        for score in content["scores"]
    )
    return Evaluation(
        str(content["probe"]), str(content.get("by") or ""), _step(content), bool(content.get("random")), scores
    )


def _tuned(content: dict[str, Any]) -> Tuned:
    metric = str(content["metric"])
    seeds = [seed.get("scores", {}) for seed in content["seeds"]]
    mean: Mapping[str, Any] = content["mean"]
    return Tuned(
        str(content["task"]),
        metric,
        str(content.get("split") or ""),
        _step(content),
        bool(content.get("random")),
        tuple(value for scores in seeds if not math.isnan(value := _number(scores.get(metric)))),
        _number(mean[metric]),
        _optional(content.get("deviation", {}).get(metric)),
        tuple((str(name), _number(value)) for name, value in mean.items() if name != metric),
    )


def _probe(content: dict[str, Any]) -> Probe | None:
    figures = content["figures"]
    ratio, error = _number(figures.get("draw_ratio")), _number(figures.get("draw_ratio_error"))
    return None if math.isnan(ratio) or math.isnan(error) else Probe(int(content["step"]), ratio, error)


def _step(content: Mapping[str, Any]) -> int | None:
    step = content.get("step")
    return None if step is None else int(step)


def _number(value: object) -> float:
    """NaN for what is missing or not finite."""
    if value is None:
        return math.nan
    number = float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else math.nan


def _optional(value: object) -> float | None:
    number = _number(value)
    return None if math.isnan(number) else number
