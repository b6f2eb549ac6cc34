"""Scores that other commands left in a run folder: evaluations, and tasks that the run was fine-tuned on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.errors import UserError
from data_pipeline.places.json_file import read_record

T = TypeVar("T")

_ADVICE = "remove it, or write it anew with the command that made it"


@dataclass(frozen=True)
class Score:
    """One score of an evaluation; ``value`` is NaN where it has none. ``error`` is a standard error; ``chance`` what a
    model that knows nothing gets."""

    name: str
    value: float
    error: float | None
    count: int | None
    chance: float | None


@dataclass(frozen=True)
class Evaluation:
    """What ``electra-scale evaluate`` wrote of a probe.

    ``file``: its name in the run folder. ``by``: the network that was scored. ``variant``: what tells it from others of
    its probe, such as a layer. ``step``: None for a model that is no run. ``random``: of weights that were drawn anew.
    """

    file: str
    probe: str
    variant: str
    by: str
    step: int | None
    random: bool
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Tuned:
    """What ``electra-scale finetune`` wrote of a task: each metric's mean and deviation over seeds.

    ``file``, ``step``, ``random``: as in :class:`Evaluation`. ``kind``: what the hub calls tasks of its kind.
    ``metric``: the main one; ``seeds`` are its values (NaN for a seed without one), ``main`` and ``spread`` their mean
    and deviation.
    """

    file: str
    kind: str
    task: str
    metric: str
    split: str
    step: int | None
    random: bool
    seeds: tuple[float, ...]
    mean: Mapping[str, float]
    deviation: Mapping[str, float | None]

    @property
    def main(self) -> float:
        return self.mean[self.metric]

    @property
    def spread(self) -> float | None:
        return self.deviation.get(self.metric)


@dataclass(frozen=True)
class Scores:
    """All of them, by their files' names; ``unread``: a line for each file that could not be read."""

    evaluations: tuple[Evaluation, ...]
    tuned: tuple[Tuned, ...]
    unread: tuple[str, ...]


def read_scores(run: Path) -> Scores:
    """The scores in ``evaluation/`` and ``finetune/`` of a run folder, of all steps."""
    unread: list[str] = []
    evaluations = read_all(run, sorted((run / "evaluation").glob("**/*.json")), _evaluation, unread)
    tuned = read_all(run, sorted((run / "finetune").glob("**/result.json")), _tuned, unread)
    return Scores(tuple(evaluations), tuple(tuned), tuple(unread))


def read_all(run: Path, paths: Iterable[Path], make: Callable[[str, dict[str, Any]], T], unread: list[str]) -> list[T]:
    """What ``make`` builds of the name in the run folder and the content of each file; ``unread`` gets the others."""
    found = []
    for path in paths:
        name = path.relative_to(run).as_posix()
        try:
            record = read_record(path, lambda content, name=name: make(name, content), advice=_ADVICE)  # type: ignore[misc]
        except UserError as error:
            # A model card must not name the places of a machine.
            unread.append(str(error).replace(str(path), name))
            continue
        if record is not None:
            found.append(record)
    return found


def task_type(result: Mapping[str, Any]) -> str:
    """What the hub calls tasks of the kind of a ``result.json``; it counts regression as text classification."""
    return {"tagging": "token-classification", "question-answering": "question-answering"}.get(
        result["kind"], "text-classification"
    )


def number(value: object) -> float:
    """NaN for what is missing or not finite."""
    if value is None:
        return math.nan
    found = float(value)  # type: ignore[arg-type]
    return found if math.isfinite(found) else math.nan


def _optional(value: object) -> float | None:
    found = number(value)
    return None if math.isnan(found) else found


def _step(content: Mapping[str, Any]) -> int | None:
    return None if content["step"] is None else int(content["step"])


def _evaluation(name: str, content: dict[str, Any]) -> Evaluation:
    probe = str(content["probe"])
    # PROBE-VARIANT-STEP.json, or PROBE-STEP.json.
    variant = Path(name).stem.rpartition("-")[0].removeprefix(probe).strip("-")
    scores = tuple(
        Score(
            str(score["name"]),
            number(score["value"]),
            _optional(score.get("error")),
            None if score.get("count") is None else int(score["count"]),
            _optional(score.get("chance")),
        )
        for score in content["scores"]
    )
    return Evaluation(name, probe, variant, str(content["by"]), _step(content), bool(content["random"]), scores)


def _tuned(name: str, content: dict[str, Any]) -> Tuned:
    metric = str(content["metric"])
    mean = {str(each): number(value) for each, value in content["mean"].items()}
    if metric not in mean:
        raise ValueError(f"it has no mean of its metric {metric}")
    return Tuned(
        name,
        task_type(content),
        str(content["task"]),
        metric,
        str(content["split"]),
        _step(content),
        bool(content["random"]),
        tuple(number(seed["scores"].get(metric)) for seed in content["seeds"]),
        mean,
        {str(each): _optional(value) for each, value in content["deviation"].items()},
    )
