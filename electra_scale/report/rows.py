"""The rows of a run for plots: metrics.jsonl goes in, columns over steps come out, and what is wrong with the file."""

from __future__ import annotations

import itertools
import json
import math
import sys
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import UserError

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]

POINTS = 160
"""Points that a curve is drawn with; more cannot be told apart on a screen."""

_GAP = 4
"""A curve is broken where steps are this many times as far apart as they usually are."""


@dataclass(frozen=True)
class Rows:
    """Columns of n rows with ascending steps.

    ``columns``: by tag, (n,) values, NaN where the row has none or one that is not finite. ``bad``: by tag, the steps
    whose value is not finite. ``damaged``: lines that are not rows. ``repeated``: rows of a step that a later row has
    again; the later one counts.
    """

    steps: Steps
    phases: tuple[str, ...]
    columns: dict[str, Floats]
    bad: dict[str, Steps]
    damaged: int = 0
    repeated: int = 0

    def __len__(self) -> int:
        return len(self.steps)

    def starts_of_phases(self) -> list[tuple[int, str]]:
        """The first logged step of each phase, in order."""
        changes = [n for n in range(len(self)) if n == 0 or self.phases[n] != self.phases[n - 1]]
        return [(int(self.steps[n]), self.phases[n]) for n in changes]

    def last(self, tag: str) -> tuple[int, float] | None:
        """Step and value of the last finite value of a tag."""
        values = self.columns.get(tag)
        if values is None:
            return None
        found = np.flatnonzero(np.isfinite(values))
        return (int(self.steps[found[-1]]), float(values[found[-1]])) if len(found) else None


@dataclass(frozen=True)
class Curve:
    """What is drawn of a tag: (n,) steps and values, and the least and the largest value that each point stands for.

    A NaN among them breaks the curve. ``each``: logged values in a point, at most. ``logged``: values in all.
    """

    steps: Floats
    values: Floats
    low: Floats
    high: Floats
    each: int
    logged: int


def read_rows(path: Path) -> Rows:
    """Read a metrics file; one that does not exist has no rows, and a last line that is being written is passed over.

    Raises:
        UserError: the file cannot be read.
    """
    table = _Table()
    try:
        # Line by line: a long run has some hundred megabytes of rows.
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for line in file:
                # Without a line feed behind it a line is still being written, or a kill cut it short.
                if line.endswith("\n"):
                    table.add(line)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); check the path and its permissions") from error
    return table.rows()


class _Table:
    """Columns that grow by a row at a time."""

    def __init__(self) -> None:
        self.steps = array("q")
        self.phases: list[str] = []
        self.columns: dict[str, array[float]] = {}
        self.bad: dict[str, list[int]] = {}
        self.damaged = 0

    def add(self, line: str) -> None:
        try:
            row = json.loads(line)
            step = row["step"]
            if type(step) is not int or not 0 <= step < 2**62:
                raise ValueError("not a step")
        except (ValueError, TypeError, KeyError, RecursionError):
            self.damaged += 1
            return
        number = len(self.steps)
        self.steps.append(step)
        self.phases.append(sys.intern(str(row.get("phase", ""))))
        for tag, value in row.items():
            if tag in ("step", "phase") or not (value is None or type(value) in (int, float)):
                continue
            column = self.columns.setdefault(tag, array("d"))
            column.extend([math.nan] * (number - len(column)))
            held = _finite(value)
            column.append(held)
            if math.isnan(held):
                self.bad.setdefault(tag, []).append(number)

    def rows(self) -> Rows:
        """In the order of their steps, and of the rows of a step the last one."""
        steps = np.array(self.steps, np.int64)
        order = np.argsort(steps, kind="stable")
        kept = order[np.r_[np.diff(steps[order]) != 0, True]] if len(order) else order
        columns = {}
        for tag, column in self.columns.items():
            values = np.full(len(steps), np.nan)
            values[: len(column)] = column
            columns[tag] = values[kept]
        bad = {tag: np.sort(steps[np.intersect1d(rows, kept)]) for tag, rows in self.bad.items()}
        phases = tuple(self.phases[number] for number in kept)
        return Rows(steps[kept], phases, columns, bad, self.damaged, len(order) - len(kept))


def _finite(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (OverflowError, TypeError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def curve(rows: Rows, tag: str) -> Curve | None:
    """The curve of a tag, thinned to about :data:`POINTS` points; None if it has no finite value.

    Values are averaged over equal ranges of steps, never over two phases nor over a gap, where the curve is broken.
    """
    values = rows.columns.get(tag)
    if values is None or not np.isfinite(values).any():
        return None
    there = np.flatnonzero(np.isfinite(values))
    steps, finite = rows.steps[there], values[there]
    pieces = _pieces(steps, [rows.phases[n] for n in there])
    each = max(1, math.ceil(len(there) / POINTS))
    parts: list[list[float]] = []
    largest = 1
    for first, end in pieces:
        if parts:
            parts.append([math.nan] * 4)
        for start in range(first, end, each):
            stop = min(end, start + each)
            # A short rest would be noisier than the other points.
            if end - stop < each / 2:
                stop = end
            chosen = finite[start:stop]
            parts.append(
                [float(steps[start:stop].mean()), float(chosen.mean()), float(chosen.min()), float(chosen.max())]
            )
            largest = max(largest, stop - start)
            if stop == end:
                break
    table = np.array(parts, np.float64)
    return Curve(table[:, 0], table[:, 1], table[:, 2], table[:, 3], largest, len(there))


def _pieces(steps: Steps, phases: list[str]) -> list[tuple[int, int]]:
    """Ranges of values that belong together: no other phase, no gap in the steps."""
    distances = np.diff(steps)
    usual = float(np.median(distances)) if len(distances) else 1.0
    cuts = [n + 1 for n in range(len(distances)) if distances[n] > _GAP * usual or phases[n] != phases[n + 1]]
    edges = [0, *cuts, len(steps)]
    return list(itertools.pairwise(edges))
