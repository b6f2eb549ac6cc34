"""The study's table, JSON and plots, from whatever runs are finished."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.study.arms import Study
from benchmarks.study.cost import ArmCost, costs
from benchmarks.study.figures import (
    COLUMNS,
    Column,
    Summary,
    Values,
    compare_speeds,
    detected_by_generator,
    run_figures,
    summarise,
    unigram_entropy,
    warmup_figures,
)
from benchmarks.study.plots import plot
from benchmarks.study.runs import reached
from benchmarks.study.targets import targets
from data_pipeline.places.atomic import write_bytes

NOT_MEASURED = "not measured"


def report(study: Study) -> Path:
    """Write ``study.md``, ``study.json`` and ``plots/`` of the arms and seeds that are finished; returns the first."""
    steps = {arm: study.recipe(arm).schedule.steps for arm in study.arms}
    runs = {
        (arm, seed): run_figures(study.run(arm, seed), steps[arm])
        for arm in study.arms
        for seed in study.seeds
        if reached(study.run(arm, seed), steps[arm])
    }
    compare_speeds(study, runs)
    warmups = {
        f"{seed}{warmup.suffix}": warmup_figures(study, seed, warmup)
        for seed in study.seeds
        for warmup in study.warmups
    }
    entropy = unigram_entropy(study.store)
    summaries, cost = summarise(runs, study.baseline), costs(study)
    text = markdown(summaries, warmups, entropy, study.baseline, cost, _common_generators(study, summaries))
    found = plain(summaries, warmups, entropy, cost)
    write_bytes(study.out / "study.json", json.dumps(found, indent=1).encode() + b"\n")
    write_bytes(study.out / "study.md", text.encode())
    plot(study, summaries, cost)
    return study.out / "study.md"


def _common_generators(study: Study, summaries: Mapping[str, object]) -> list[list[str]]:
    """A table with its headings: each arm's AUC against each common generator, mean over seeds; [] for one alone."""
    names = [f"warmup{warmup.suffix}" for warmup in study.warmups]
    rows = []
    for arm in summaries:
        runs = [found for seed in study.seeds if (found := detected_by_generator(study.run(arm, seed)))]
        if runs:
            rows.append([arm, *(f"{statistics.fmean(run[name] for run in runs):.4f}" for name in names)])
    return [["arm", *names], *rows] if len(names) > 1 and rows else []


def plain(
    summaries: Mapping[str, Mapping[str, Summary]],
    warmups: Mapping[str, Values],
    entropy: float | None,
    cost: Mapping[str, ArmCost],
) -> dict[str, object]:
    """Everything as values for JSON; what was not measured is null."""
    return {
        "unigram_entropy": entropy,
        "warmup": {name: dict(figures) for name, figures in warmups.items()},
        "cost": {
            arm: {"flops": found.flops, "tokens": found.tokens, "phases": [asdict(phase) for phase in found.phases]}
            for arm, found in cost.items()
        },
        "arms": {
            arm: {
                name: {
                    "mean": summary.mean,
                    "deviation": summary.deviation,
                    "seeds": {str(seed): value for seed, value in summary.values.items()},
                    "paired_mean": summary.paired_mean,
                    "paired_deviation": summary.paired_deviation,
                    "paired": {str(seed): value for seed, value in summary.paired.items()},
                }
                for name, summary in figures.items()
            }
            for arm, figures in summaries.items()
        },
    }


def markdown(
    summaries: Mapping[str, Mapping[str, Summary]],
    warmups: Mapping[str, Values],
    entropy: float | None,
    baseline: str,
    cost: Mapping[str, ArmCost],
    common: Sequence[Sequence[str]],
) -> str:
    """The tables: warm-ups, costs, figures of each arm, each arm against the baseline of the same seed, targets.

    A column that no arm has a figure for is left out. ``common``: :func:`_common_generators`.
    """
    measured = [column for column in COLUMNS if any(figures[column.name].values for figures in summaries.values())]
    paired = [column for column in measured if column.paired is not None]
    parts = [
        "## Generators that the arms start from",
        _table(
            ["seed", "held-out loss, nats", "unigram entropy", "below it"],
            [[name, *_warmup_cells(figures, entropy)] for name, figures in warmups.items()],
        ),
        "## Cost of an arm: training steps, floating-point operations, positions of rows, its warm-up included",
        _table(
            ["arm", "steps", "operations, 10^12", f"against {baseline}", "positions, millions"],
            [[arm, *_cost_cells(found, cost.get(baseline))] for arm, found in cost.items()],
        ),
        "## Arms: mean over seeds, and the deviation of a seed",
        _table(
            ["arm", "seeds", *(column.heading for column in measured)],
            [
                [arm, str(_seeds(figures)), *(_cell(figures[column.name], column) for column in measured)]
                for arm, figures in summaries.items()
            ],
        ),
        *(
            ["## AUC against each common generator", _table(list(common[0]), [list(row) for row in common[1:]])]
            if common
            else []
        ),
        f"## Arms against {baseline} of the same seed: mean difference (of variances: ratio), and its deviation",
        _table(
            ["arm", "seeds", *(column.heading for column in paired)],
            [
                [arm, str(_pairs(figures)), *(_paired_cell(figures[column.name], column) for column in paired)]
                for arm, figures in summaries.items()
                if any(figures[column.name].paired for column in paired)
            ],
        ),
        "## Targets",
        _table(["target", "figure", "result"], targets(summaries, baseline)),
    ]
    return "\n\n".join(parts) + "\n"


def _warmup_cells(figures: Values, entropy: float | None) -> list[str]:
    loss = figures["generator_cross_entropy"]
    below = None if loss is None or entropy is None else entropy - loss
    return [NOT_MEASURED if value is None else f"{value:.3f}" for value in (loss, entropy, below)]


def _cost_cells(cost: ArmCost, baseline: ArmCost | None) -> list[str]:
    steps = " + ".join(f"{phase.steps:,} {phase.name}" for phase in cost.phases if phase.steps)
    against = "-" if baseline is None else f"{cost.flops / baseline.flops - 1:+.1%}"
    return [steps, f"{cost.flops / 1e12:,.2f}", against, f"{cost.tokens / 1e6:,.2f}"]


def _cell(summary: Summary, column: Column) -> str:
    return _with_deviation(summary.mean, summary.deviation, lambda value: f"{value:{column.form}}")


def _paired_cell(summary: Summary, column: Column) -> str:
    form = ".2f" if column.paired == "ratio" else f"+{column.form.lstrip('+')}"
    return _with_deviation(summary.paired_mean, summary.paired_deviation, lambda value: f"{value:{form}}")


def _with_deviation(mean: float | None, deviation: float | None, form: Callable[[float], str]) -> str:
    if mean is None:
        return NOT_MEASURED
    return form(mean) if deviation is None else f"{form(mean)} ± {form(deviation).lstrip('+')}"


def _seeds(figures: Mapping[str, Summary]) -> int:
    return max(len(summary.values) for summary in figures.values())


def _pairs(figures: Mapping[str, Summary]) -> int:
    return max(len(summary.paired) for summary in figures.values())


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
