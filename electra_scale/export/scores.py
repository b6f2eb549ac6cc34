"""The scores of a run that are on disk: probes, and tasks that it was fine-tuned on, beside those of random weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.places.json_file import read_record
from data_pipeline.progress import counted

_RESTORE = "remove it, or evaluate again"


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
class Tuned:
    """A task that the weights were fine-tuned on: each metric's mean and deviation over so many seeds.

    ``kind`` is what the hub calls tasks of its kind.
    """

    kind: str
    task: str
    metric: str
    split: str
    seeds: int
    mean: Mapping[str, float]
    deviation: Mapping[str, float | None]
    random: Mapping[str, float]


@dataclass(frozen=True)
class Scores:
    """Scores of the weights of a step, and sentences about files that are not used."""

    probes: list[Probed]
    tasks: list[Tuned]
    notes: list[str]


def scores_of(run: Path, step: int) -> Scores:
    """What ``run`` holds for the weights of ``step``, in ``evaluation/`` and ``finetune/``."""
    notes: list[str] = []
    evaluations = list(_records(run, run / "evaluation", "*.json", _evaluation, notes))
    results = list(_records(run, run / "finetune", "result.json", _result, notes))
    other = [name for name, content in (*evaluations, *results) if content["step"] not in (step, None)]
    if other:
        notes.append(f"{counted(len(other), 'result')} of other steps than {step} left out, such as {min(other)}.")
    probes = [(name, content) for name, content in evaluations if content["step"] == step]
    tasks = [content for _, content in results if content["step"] == step]
    random_probes = {Path(name).name: _by_name(content) for name, content in probes if content["random"]}
    random_tasks = {content["task"]: content["mean"] for content in tasks if content["random"]}
    return Scores(
        [_probed(name, content, step, random_probes) for name, content in probes if not content["random"]],
        [_tuned(content, random_tasks) for content in tasks if not content["random"]],
        notes,
    )


def _records(
    run: Path, folder: Path, pattern: str, make: Any, notes: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The readable records below a folder by their names in the run; the others become notes."""
    for path in sorted(folder.rglob(pattern)) if folder.is_dir() else ():
        name = path.relative_to(run).as_posix()
        try:
            content = read_record(path, make, advice=_RESTORE)
        except UserError as error:
            notes.append(f"Left out: {str(error).replace(str(path), name)}.")
            continue
        if content is not None:
            yield name, content


def _evaluation(content: dict[str, Any]) -> dict[str, Any]:
    figures = [
        Figure(
            str(score["name"]),
            float(score["value"]),
            _number(score.get("error")),
            None if score.get("count") is None else int(score["count"]),
            _number(score.get("chance")),
        )
        for score in content["scores"]
        if score["value"] is not None
    ]
    return {
        "step": content["step"],
        "random": bool(content["random"]),
        "probe": str(content["probe"]),
        "by": str(content["by"]),
        "figures": figures,
    }


def _result(content: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": task_type(content),
        "step": content["step"],
        "random": bool(content["random"]),
        "task": str(content["task"]),
        "metric": str(content["metric"]),
        "split": str(content["split"]),
        "seeds": len(content["seeds"]),
        "mean": {str(name): float(value) for name, value in content["mean"].items()},
        "deviation": {str(name): _number(value) for name, value in content["deviation"].items()},
    }


def task_type(result: Mapping[str, Any]) -> str:
    """What the hub calls tasks of the kind of a ``result.json``; it counts regression as text classification."""
    return {"tagging": "token-classification", "question-answering": "question-answering"}.get(
        result["kind"], "text-classification"
    )


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)


def _by_name(content: Mapping[str, Any]) -> dict[str, float]:
    return {figure.name: figure.value for figure in content["figures"]}


def _probed(name: str, content: Mapping[str, Any], step: int, random: Mapping[str, Mapping[str, float]]) -> Probed:
    chance = random.get(Path(name).name, {})
    figures = [
        Figure(each.name, each.value, each.error, each.count, each.chance, chance.get(each.name))
        for each in content["figures"]
    ]
    return Probed(content["probe"], Path(name).stem.removesuffix(f"-{step}"), content["by"], figures)


def _tuned(content: Mapping[str, Any], random: Mapping[str, Mapping[str, float]]) -> Tuned:
    return Tuned(
        content["kind"],
        content["task"],
        content["metric"],
        content["split"],
        content["seeds"],
        content["mean"],
        content["deviation"],
        random.get(content["task"], {}),
    )
