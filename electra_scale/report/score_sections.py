"""Evaluations and fine-tuning on the page: dots with their errors, and tables with every score."""

from __future__ import annotations

import math
from collections.abc import Sequence

from electra_scale.export.scores import Evaluation, Score, Tuned
from electra_scale.report.charts import Dot, DotChart, short
from electra_scale.report.figures import run_heads
from electra_scale.report.markup import table, text
from electra_scale.report.material import Run

_Name = tuple[str, str, str, str]
"""Of a score: probe, by which network, the figure's own, and the variant."""

_NONE = (
    '<p class="quiet">None yet. <code>electra-scale evaluate RUN</code> and '
    "<code>electra-scale finetune --model RUN --task NAME</code> write scores that this page then shows.</p>"
)


def scores_section(runs: Sequence[Run]) -> str:
    """What other commands measured of the runs, or how to get it."""
    parts = [_evaluations(runs), _tuned(runs)]
    return "\n".join(part for part in parts if part) or _NONE


def _evaluations(runs: Sequence[Run]) -> str:
    names: dict[_Name, None] = {}
    found: dict[_Name, list[list[tuple[Evaluation, Score]]]] = {}
    for number, run in enumerate(runs):
        for evaluation in run.scores.evaluations:
            for score in evaluation.scores:
                name = (evaluation.probe, evaluation.by, score.name, evaluation.variant)
                names[name] = None
                found.setdefault(name, [[] for _ in runs])[number].append((evaluation, score))
    if not names:
        return ""
    plotted, chance = [], {}
    for name in names:
        cells = found[name]
        dots = [
            Dot(score.value, number, score.error, hollow=evaluation.random)
            for number, cell in enumerate(cells)
            for evaluation, score in cell
            if math.isfinite(score.value)
        ]
        # Losses and perplexities are on another scale than shares.
        if dots and all(0 <= dot.value <= 1 for dot in dots):
            label = _label(name)
            plotted.append((label, dots))
            known = [score.chance for cell in cells for _, score in cell if score.chance is not None]
            if known:
                chance[label] = known[0]
    rows = [
        [
            f"{text(' '.join(name[0].split('_')))}: {text(name[2])} <small>{text(_by(name, ''))}</small>",
            *(_cell(cell) for cell in found[name]),
        ]
        for name in names
    ]
    figure = ""
    if plotted:
        chart = DotChart("scores-evaluation", "Evaluation", "share", plotted, chance)
        figure = (
            '<figure id="scores-evaluation"><figcaption><h3>Evaluation without fine-tuning</h3><p>Each dot with one '
            "standard error; dotted strokes are chance, hollow dots are random weights of the same size."
            f"</p></figcaption>\n{chart.svg()}</figure>\n"
        )
    head = ["score", *(["value"] if len(runs) == 1 else run_heads(runs))]
    return f"{figure}{table(head, rows)}"


def _label(name: _Name) -> str:
    return f"{name[2].replace('_', ' ')}{_by(name, ', ', 'discriminator')}"


def _by(name: _Name, before: str, usual: str = "") -> str:
    """Network and variant, as far as the one is not the usual and the other says more."""
    by = [part for part in (name[1], name[3]) if part and part != usual]
    return f"{before}{', '.join(dict.fromkeys(by))}" if by else ""


def _cell(cell: Sequence[tuple[Evaluation, Score]]) -> str:
    lines = []
    for evaluation, score in cell:
        error = f" &plusmn; {short(score.error)}" if score.error is not None else ""
        count = f" of {score.count:,}" if score.count is not None else ""
        at = " random weights" if evaluation.random else f" at {evaluation.step:,}" if evaluation.step else ""
        lines.append(f"{short(score.value)}{error}<small>{count}{at}</small>")
    return "<br>".join(lines)


def _tuned(runs: Sequence[Run]) -> str:
    tasks: dict[tuple[str, str], list[list[Tuned]]] = {}
    for number, run in enumerate(runs):
        for tuned in run.scores.tuned:
            tasks.setdefault((tuned.task, tuned.metric), [[] for _ in runs])[number].append(tuned)
    if not tasks:
        return ""
    plotted = []
    for (task, metric), cells in tasks.items():
        dots = [
            Dot(tuned.main, number, tuned.spread, _values(tuned), tuned.random)
            for number, cell in enumerate(cells)
            for tuned in cell
            if math.isfinite(tuned.main)
        ]
        if dots:
            plotted.append((f"{task}, {metric}", dots))
    rows = [
        [f"{text(task)} <small>{text(metric)}</small>", *("<br>".join(map(_tuned_cell, cell)) for cell in cells)]
        for (task, metric), cells in tasks.items()
    ]
    figure = ""
    if plotted:
        chart = DotChart("scores-finetune", "Fine-tuning", "score", plotted)
        figure = (
            '<figure id="scores-finetune"><figcaption><h3>Fine-tuning</h3><p>Means over seeds with their standard '
            "deviation; strokes are the seeds, hollow dots began with random weights of the same size."
            f"</p></figcaption>\n{chart.svg()}</figure>\n"
        )
    head = ["task", *(["mean &plusmn; deviation"] if len(runs) == 1 else run_heads(runs))]
    return f"{figure}{table(head, rows)}"


def _values(tuned: Tuned) -> tuple[float, ...]:
    return tuple(value for value in tuned.seeds if math.isfinite(value))


def _tuned_cell(tuned: Tuned) -> str:
    deviation = f" &plusmn; {short(tuned.spread)}" if tuned.spread is not None else ""
    seeds = f" {len(tuned.seeds)} seed{'s' if len(tuned.seeds) != 1 else ''}"
    what = ", random weights" if tuned.random else f", step {tuned.step:,}" if tuned.step else ""
    split = f", {text(tuned.split)}" if tuned.split else ""
    return f"{short(tuned.main)}{deviation}<small>{seeds}{split}{what}</small>"
