"""The study's figures: read from a run folder, then summed up over seeds and against the baseline."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.study.arms import Study, Warmup
from benchmarks.study.runs import FROZEN
from electra_scale.finetune.tasks.known import TASKS

EARLY = (0.25, 0.5)
"""Part of the joint steps that "early" figures are taken over: the first, while the rate rises, is left out."""
LATE = (0.5, 1.0)
WINDOW = 100
"""Steps within which the loss is taken to follow a straight line."""

Values = dict[str, float | None]
Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A figure as the table shows it. ``paired``: how a run is compared with the baseline's of the same seed."""

    name: str
    heading: str
    form: str
    paired: Literal["difference", "ratio"] | None = None


COLUMNS = (
    Column("draw_ratio_early", "draw ratio, early", ".3f"),
    Column("draw_ratio_late", "draw ratio, late", ".3f"),
    Column("draw_ratio_max", "draw ratio, largest", ".3f"),
    Column("gradient_ratio", "gradient ratio", ".3f"),
    Column("gradient_ratio_error", "its error", ".3f"),
    Column("step_variance_early", "variance of L_D, early", ".2e", "ratio"),
    Column("step_variance_late", "variance of L_D, late", ".2e", "ratio"),
    Column("bias", "mean of w l over plain mean, less 1", "+.2%"),
    Column("bias_error", "its error", ".2%"),
    Column("auc", "AUC, common generator", ".4f", "difference"),
    Column("discriminator_loss", "loss, common generator", ".4f", "difference"),
    Column("auc_reached", "steps to the baseline's AUC, share of all", ".2f"),
    Column("pairs_swapped", "pairs swapped", ".3f", "difference"),
    Column("pairs_replaced", "pairs replaced", ".3f", "difference"),
    Column("generator_pairs_swapped", "pairs swapped, by the generator", ".3f", "difference"),
    Column("generator_pairs_replaced", "pairs replaced, by the generator", ".3f", "difference"),
    Column("masked_cross_entropy", "15 % masked, nats", ".3f", "difference"),
    Column("masked_accuracy", "15 % masked, accuracy", ".3f", "difference"),
    *(Column(f"frozen_{task}", f"frozen, {task}", ".3f", "difference") for task in FROZEN),
    *(Column(f"tuned_{task}", f"tuned, {task}", ".3f", "difference") for task in TASKS),
    Column("tokens_per_second", "tokens/s, median", ",.0f", "ratio"),
    Column("identical", "draws equal to x", ".3f", "difference"),
    Column("false_negatives", "of replaced: above x", ".3f"),
    Column("false_negatives_hard", "of hard ones: above x", ".3f"),
    Column("generator_cross_entropy", "generator, nats", ".3f", "difference"),
    Column("expected_calibration_error", "calibration error", ".4f", "difference"),
    Column("generator_probability", "mean p(x)", ".3f", "difference"),
    Column("generator_accuracy", "accuracy", ".3f", "difference"),
    Column("ess", "effective sample size", ".3f"),
    Column("weight_max", "largest w", ".2f"),
    Column("rank_within", "rank correlation within", ".3f"),
)


def read_rows(run: Path) -> list[Row]:
    """Rows of a run's metrics.jsonl; a row that is being written just now is left out."""
    path = run / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def rows_of_the_arm(run: Path) -> list[Row]:
    """Rows of the phase that an arm is about: all but those of a warm-up."""
    return [row for row in read_rows(run) if row["phase"] != "generator_warmup"]


def series(
    rows: Sequence[Row], name: str, part: tuple[float, float] = (0.0, 1.0), steps: int = 0
) -> NDArray[np.float64]:
    """(n, 2) step and value wherever the rows have the value, within a part of ``steps``, its beginning left out."""
    low, high = part[0] * steps, part[1] * steps if steps else math.inf
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None and low < row["step"] <= high]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def mean_of(rows: Sequence[Row], name: str, part: tuple[float, float], steps: int) -> float | None:
    """Mean over a part of the steps, None where it was not measured."""
    values = series(rows, name, part, steps)[:, 1]
    return float(values.mean()) if len(values) else None


def largest(rows: Sequence[Row], name: str) -> float | None:
    """Largest value of the run, None where it was not measured."""
    values = series(rows, name)[:, 1]
    return float(values.max()) if len(values) else None


def _median(rows: Sequence[Row], name: str) -> float | None:
    values = series(rows, name)[:, 1]
    return float(np.median(values)) if len(values) else None


def variance_over_steps(values: NDArray[np.float64], window: int = WINDOW) -> float | None:
    """Variance (n,) around a straight line, fitted anew in each window: the loss falls, and that is not noise.

    Windows are equally long and at most ``window``. Unbiased: a line takes two degrees of freedom. None for fewer than
    three values.
    """
    if len(values) < 3:
        return None
    parts = np.array_split(values, max(1, math.ceil(len(values) / window)))
    squares = sum(float(_off_the_line(part) @ _off_the_line(part)) for part in parts)
    return squares / (len(values) - 2 * len(parts))


def _off_the_line(values: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = np.arange(len(values), dtype=np.float64)
    return values - np.polyval(np.polyfit(steps, values, 1), steps)


def run_figures(run: Path, steps: int) -> Values:
    """Everything of one arm and seed; None where it was not measured."""
    rows = rows_of_the_arm(run)
    loss = "loss/discriminator"
    figures: Values = {
        "draw_ratio_early": mean_of(rows, "disc_loss_variance/draw_ratio", EARLY, steps),
        "draw_ratio_late": mean_of(rows, "disc_loss_variance/draw_ratio", LATE, steps),
        "draw_ratio_max": largest(rows, "disc_loss_variance/draw_ratio"),
        "step_variance_early": variance_over_steps(series(rows, loss, EARLY, steps)[:, 1]),
        "step_variance_late": variance_over_steps(series(rows, loss, LATE, steps)[:, 1]),
        "identical": mean_of(rows, "sampling/identical_rate", LATE, steps),
        "ess": mean_of(rows, "sampling/ess", LATE, steps),
        "weight_max": largest(rows, "sampling/weight_max"),
        "rank_within": mean_of(rows, "sampling/hardness_rank_correlation_within", LATE, steps),
        "false_negatives": mean_of(rows, "sampling/false_negative_rate", LATE, steps),
        "false_negatives_hard": mean_of(rows, "sampling/false_negative_rate_hard", LATE, steps),
        "tokens_per_second": _median(rows, "speed/tokens_per_second"),
    }
    figures |= _probed(run)
    figures |= _detected(run)
    figures |= _asked(run)
    return {column.name: figures.get(column.name) for column in COLUMNS}


def _probed(run: Path) -> Values:
    """What ``electra-scale probe`` found at the last checkpoint."""
    files = sorted((run / "probe").glob("step-*.json"))
    if not files:
        return {}
    found = json.loads(files[-1].read_text()).get("figures", {})
    plain, weighted = found.get("mean_loss_p"), found.get("mean_weighted_loss_q")
    error = found.get("mean_difference_error")
    return {
        "gradient_ratio": found.get("gradient_ratio"),
        "gradient_ratio_error": found.get("gradient_ratio_error"),
        "bias": weighted / plain - 1 if plain and weighted is not None else None,
        "bias_error": error / plain if plain and error is not None else None,
    }


def _detected(run: Path) -> Values:
    found = _read(run / "detection.json")
    return {name: value for name, value in found.items() if not isinstance(value, dict)}


def detected_by_generator(run: Path) -> dict[str, float]:
    """AUC at the last checkpoint against each of the common generators, by the names of their warm-ups."""
    return {name: one["auc"] for name, one in _read(run / "detection.json").get("by_generator", {}).items()}


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _asked(run: Path) -> Values:
    """What ``electra-scale evaluate`` and ``finetune`` found at the last checkpoint."""
    found: Values = {}
    folders = {"pairs": "", "pairs_by_generator": "generator_", "masked": "", "frozen": "frozen_"}
    for folder, prefix in folders.items():
        for path in (run / folder).glob("*.json"):
            found |= {prefix + score["name"]: score["value"] for score in _read(path)["scores"]}
    for result in _read(run / "tuned/suite.json").get("results", ()):
        found[f"tuned_{result['task']}"] = result["mean"][result["metric"]]
    return found


def compare_speeds(study: Study, runs: Mapping[tuple[str, int], Values]) -> None:
    """Add to each run after which share of its steps it is where the baseline of its seed ends, by AUC."""
    for (arm, seed), figures in runs.items():
        curve, baseline = by_step(study.run(arm, seed), "auc"), runs.get((study.baseline, seed), {}).get("auc")
        if baseline is not None and len(curve) > 1:
            reached = steps_to(curve, baseline)
            figures["auc_reached"] = None if reached is None else reached / curve[-1, 0]


def by_step(run: Path, name: str) -> NDArray[np.float64]:
    """(n, 2) step and what ``benchmarks.study.detection`` measured there, of each checkpoint that was kept."""
    found = _read(run / "detection.json").get("by_step", {})
    pairs = sorted((int(step), one[name]) for step, one in found.items() if name in one)
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def steps_to(curve: NDArray[np.float64], level: float) -> float | None:
    """The first step at which a curve (n, 2) is at a level, along straight lines; None if it never is."""
    reached = np.flatnonzero(curve[:, 1] >= level)
    if not len(reached):
        return None
    last = reached[0]
    if last == 0:
        return float(curve[0, 0])
    (before, low), (after, high) = curve[last - 1], curve[last]
    return float(before + (after - before) * (level - low) / (high - low))


def warmup_figures(study: Study, seed: int, warmup: Warmup) -> Values:
    """A generator that arms of a seed start from: its held-out loss in nats."""
    rows = [row for row in read_rows(study.warmup(seed, warmup)) if row["phase"] == "generator_warmup"]
    losses = series(rows, "eval/generator_cross_entropy")
    return {"generator_cross_entropy": float(losses[-1, 1]) if len(losses) else None}


def unigram_entropy(store: Path) -> float | None:
    """Entropy in nats of the token frequencies: the loss of a generator that has learned nothing else."""
    if not (store / "manifest.json").is_file():
        return None
    from electra_scale.data.store import Store

    counts = Store(store).token_counts().astype(np.float64)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


@dataclass(frozen=True)
class Summary:
    """One figure of one arm over seeds. ``values`` and ``paired`` by seed; deviations are those of a sample."""

    values: dict[int, float]
    paired: dict[int, float]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def paired_mean(self) -> float | None:
        return statistics.fmean(self.paired.values()) if self.paired else None

    @property
    def paired_deviation(self) -> float | None:
        return statistics.stdev(self.paired.values()) if len(self.paired) > 1 else None


def summarise(runs: Mapping[tuple[str, int], Values], baseline: str) -> dict[str, dict[str, Summary]]:
    """Summaries by arm and figure, from the figures of each (arm, seed); paired with the arm ``baseline``."""
    arms = dict.fromkeys(arm for arm, _ in runs)
    return {arm: {column.name: _summary(runs, arm, column, baseline) for column in COLUMNS} for arm in arms}


def _summary(runs: Mapping[tuple[str, int], Values], arm: str, column: Column, baseline: str) -> Summary:
    values: dict[int, float] = {}
    paired: dict[int, float] = {}
    for (name, seed), figures in runs.items():
        value = figures[column.name]
        if name != arm or value is None:
            continue
        values[seed] = value
        other = runs.get((baseline, seed), {}).get(column.name)
        if column.paired is None or arm == baseline or other is None:
            continue
        if column.paired == "difference":
            paired[seed] = value - other
        elif other > 0:
            paired[seed] = value / other
    return Summary(values, paired)
