"""The study's table, JSON and plots, from whatever runs are finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.study.figures import (
    COLUMNS,
    Column,
    Summary,
    Values,
    compare_speeds,
    run_figures,
    summarise,
    unigram_entropy,
    warmup_figures,
)
from benchmarks.study.plots import plot
from benchmarks.study.runs import Study, reached
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
    warmups = {seed: warmup_figures(study, seed) for seed in study.seeds}
    entropy = unigram_entropy(study.store)
    summaries = summarise(runs)
    text = markdown(summaries, warmups, entropy)
    write_bytes(study.out / "study.json", json.dumps(plain(summaries, warmups, entropy), indent=1).encode() + b"\n")
    write_bytes(study.out / "study.md", text.encode())
    plot(study, summaries)
    return study.out / "study.md"


def plain(
    summaries: Mapping[str, Mapping[str, Summary]], warmups: Mapping[int, Values], entropy: float | None
) -> dict[str, object]:
    """Everything as values for JSON; what was not measured is null."""
    return {
        "unigram_entropy": entropy,
        "warmup": {str(seed): dict(figures) for seed, figures in warmups.items()},
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
    summaries: Mapping[str, Mapping[str, Summary]], warmups: Mapping[int, Values], entropy: float | None
) -> str:
    """The tables: warm-ups, figures of each arm, each arm against the baseline of the same seed, targets.

    A column that no arm has a figure for is left out.
    """
    measured = [column for column in COLUMNS if any(figures[column.name].values for figures in summaries.values())]
    paired = [column for column in measured if column.paired is not None]
    parts = [
        "## Generators that the arms start from",
        _table(
            ["seed", "held-out loss, nats", "unigram entropy", "below it"],
            [[str(seed), *_warmup_cells(figures, entropy)] for seed, figures in warmups.items()],
        ),
        "## Arms: mean over seeds, and the deviation of a seed",
        _table(
            ["arm", "seeds", *(column.heading for column in measured)],
            [
                [arm, str(_seeds(figures)), *(_cell(figures[column.name], column) for column in measured)]
                for arm, figures in summaries.items()
            ],
        ),
        "## Arms against electra of the same seed: mean difference (of variances: ratio), and its deviation",
        _table(
            ["arm", "seeds", *(column.heading for column in paired)],
            [
                [arm, str(_pairs(figures)), *(_paired_cell(figures[column.name], column) for column in paired)]
                for arm, figures in summaries.items()
                if any(figures[column.name].paired for column in paired)
            ],
        ),
        "## Targets",
        _table(["target", "figure", "result"], targets(summaries)),
    ]
    return "\n\n".join(parts) + "\n"


def _warmup_cells(figures: Values, entropy: float | None) -> list[str]:
    loss = figures["generator_cross_entropy"]
    below = None if loss is None or entropy is None else entropy - loss
    return [NOT_MEASURED if value is None else f"{value:.3f}" for value in (loss, entropy, below)]


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
