"""The result of an evaluation: figures with their errors, as a JSON file and as a table of models side by side."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from data_pipeline.places.json_file import finite_values
from electra_scale.export.named_model import RANDOM, NamedModel

VERSION = 1
FOLDER = "evaluation"


@dataclass(frozen=True)
class Score:
    """A figure. ``error`` is its standard error, ``count`` what it is over, ``chance`` what knowing nothing gives."""

    name: str
    value: float
    error: float | None = None
    count: int | None = None
    chance: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """One probe of one model; ``by`` is the network that was scored, ``settings`` what the figures depend on.

    ``variant`` tells results of one probe and model apart that do not replace each other: another network or layer.
    """

    model: NamedModel
    probe: str
    by: str
    scores: list[Score]
    settings: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""

    def content(self) -> dict[str, Any]:
        """What the file holds; a figure that is not a number is null."""
        return {
            "version": VERSION,
            "model": self.model.name,
            "step": self.model.step,
            "random": self.model.random,
            "probe": self.probe,
            "by": self.by,
            "settings": dict(self.settings),
            "scores": finite_values([asdict(score) for score in self.scores]),
        }

    def path(self, out: Path | None = None) -> Path:
        """``evaluation/PROBE-STEP.json`` in the run's folder, those of random weights in a folder of their own.

        A model that is not a run has ``runs/evaluation/NAME/PROBE-model.json``; ``out`` stands for the folder.
        """
        if out is None:
            if self.model.run is not None:
                out = self.model.run / FOLDER
            else:
                out = Path("runs") / FOLDER / file_name(self.model.name.removeprefix(RANDOM))
            if self.model.random:
                out = out / "random"
        step = "model" if self.model.step is None else str(self.model.step)
        return out / f"{'-'.join(part for part in (self.probe, file_name(self.variant), step) if part)}.json"

    def write(self, out: Path | None = None) -> Path:
        """Write the file, which replaces the one of the same probe and step. Raises UserError if that can't be done."""
        path = self.path(out)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, json.dumps(self.content(), indent=1).encode() + b"\n")
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); name another folder with --out") from error
        return path


def file_name(text: str) -> str:
    """A part of a file's name from a model's name, a path or a setting."""
    return re.sub(r"[^\w.=]+", "-", text).strip("-.")


def shown(score: Score) -> str:
    """A figure with its standard error."""
    if not math.isfinite(score.value):
        return "-"
    error = "" if score.error is None else f" +- {score.error:.3f}"
    return f"{score.value:.3f}{error}"


def table(evaluations: Sequence[Evaluation]) -> str:
    """Models side by side: a column for each model, a row for each figure."""
    models = list(dict.fromkeys(_column(one) for one in evaluations))
    rows: dict[tuple[str, str, str], dict[str, Score]] = {}
    for one in evaluations:
        for score in one.scores:
            rows.setdefault((one.probe, one.by, score.name), {})[_column(one)] = score
    lines = [["", *models, "chance", "of"]]
    for (_, by, name), found in rows.items():
        first = next(iter(found.values()))
        counts = sorted({score.count for score in found.values() if score.count is not None})
        chance = "" if first.chance is None else f"{first.chance:.3f}"
        cells = [shown(found[model]) if model in found else "" for model in models]
        lines.append(
            [f"{name} ({by})", *cells, chance, " to ".join(f"{count:,}" for count in (*counts[:1], *counts[1:][-1:]))]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _column(one: Evaluation) -> str:
    return one.model.name if one.model.step is None or one.model.random else f"{one.model.name} @ {one.model.step}"
