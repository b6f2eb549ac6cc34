"""Plots of the panels, with captions and tables of last values: one run by its series, several by their letters."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from electra_scale.report.charts import BarChart, Line, LineChart, short
from electra_scale.report.markup import folded, key, letter, table, text
from electra_scale.report.material import Run
from electra_scale.report.panels import ALIASES, SHOWN_WHEN_NOT_ZERO, WORDS, Panel, Section, Series
from electra_scale.report.rows import Curve, curve
from electra_scale.report.time_spent import PARTS, TimeSpent

_RATIO = "disc_loss_variance/draw_ratio"
_RATIOS = (_RATIO, "disc_gradient_variance/draw_ratio")
_NEIGHBOURS = 2
_PHASES = {"joint": "joint", "generator_warmup": "generator alone", "mlm": "masked prediction"}


def section(found: Section, runs: Sequence[Run]) -> str:
    """The plots of a section that the runs have values for, and their last values; empty if there are none."""
    plots = [figure for panel in found.panels if (figure := _figure(found, panel, runs))]
    if not plots:
        return ""
    return f'<div class="plots">\n{"".join(plots)}</div>\n{_last_values(found, runs)}'


def series_of(panel: Panel, runs: Sequence[Run]) -> list[Series]:
    """The series that a run has values of which say something."""
    return [series for series in panel.series if any(_has(run, series.tag) for run in runs)]


def _has(run: Run, tag: str) -> bool:
    values = run.rows.columns.get(tag)
    if values is None or not np.isfinite(values).any():
        return False
    return tag not in SHOWN_WHEN_NOT_ZERO or bool(np.nanmax(np.abs(values)) > 0)


def _figure(found: Section, panel: Panel, runs: Sequence[Run]) -> str:
    several, chosen = len(runs) > 1, series_of(panel, runs)
    if not chosen:
        return ""
    lines, most, logged, bad = [], 1, 0, 0
    labelled = set[int]()
    for number, run in enumerate(runs):
        for place, series in enumerate(chosen):
            drawn = curve(run.rows, series.tag) if _has(run, series.tag) else None
            if drawn is None:
                continue
            steps = run.rows.bad.get(series.tag, np.zeros(0, np.int64))
            most, logged, bad = max(most, drawn.each), logged + drawn.logged, bad + len(steps)
            if series.tag in _RATIOS:
                drawn = with_neighbours(drawn)
            elif several:
                drawn = Curve(drawn.steps, drawn.values, drawn.low, drawn.high, 1, drawn.logged)
            errors = [(one.step, one.ratio, one.error) for one in run.scores.probes] if series.tag == _RATIO else []
            label, colour = (letter(number), number) if several else (series.label, place)
            # A line of a run that has its letter already is known by its colour.
            if (several and number in labelled) or (not several and len(chosen) == 1):
                label = ""
            labelled.add(number)
            lines.append(Line(label, drawn, colour, place if several else 0, steps.tolist(), errors))
    chart = LineChart(
        f"{found.name}-{panel.name}",
        panel.title,
        panel.unit,
        lines,
        panel.reference,
        [] if several else phases_of(runs[0]),
        [] if several else [attempt.step for attempt in runs[0].log.attempts if attempt.step],
    )
    notes = []
    if most > 1:
        notes.append(f"{logged:,} values, means of up to {most}.")
    if bad:
        notes.append(f"{bad:,} {'values are' if bad > 1 else 'value is'} not finite: the crosses at the top.")
    return (
        f'<figure id="{chart.name}"><figcaption><h3>{text(panel.title)}</h3><p>{reading(panel.reading)}'
        f"{' ' + text(' '.join(notes)) if notes else ''}</p>{_dashes(chosen) if several else ''}</figcaption>\n"
        f"{chart.svg()}</figure>\n"
    )


def phases_of(run: Run) -> list[tuple[int, str]]:
    """Where phases begin, by the names that people use; nothing for a run of one phase."""
    found = run.rows.starts_of_phases()
    return [(step, _PHASES.get(name, name)) for step, name in found] if len(found) > 1 else []


def with_neighbours(found: Curve) -> Curve:
    """A curve with the band of the values around each: so much do probes of about the same weights differ."""
    low, high = found.values.copy(), found.values.copy()
    for number in range(len(low)):
        around = found.values[max(0, number - _NEIGHBOURS) : number + _NEIGHBOURS + 1]
        if np.isfinite(found.values[number]):
            low[number], high[number] = np.nanmin(around), np.nanmax(around)
    return Curve(found.steps, found.values, low, high, 2 * _NEIGHBOURS + 1, found.logged)


def reading(sentence: str) -> str:
    """A sentence with its [words] linked to their explanation on the page."""

    def linked(found: re.Match[str]) -> str:
        word = ALIASES.get(found[1], found[1])
        return f'<a href="#{anchor(word)}">{found[1]}</a>' if word in WORDS else found[1]

    return re.sub(r"\[([\w ]+)\]", linked, text(sentence))


def anchor(word: str) -> str:
    """The anchor of a word's explanation."""
    return f"word-{word.replace(' ', '-')}"


def _dashes(chosen: Sequence[Series]) -> str:
    if len(chosen) < 2:
        return ""
    keys = "".join(
        f'<span class="dash d{number}" aria-hidden="true"></span>{text(series.label)}'
        for number, series in enumerate(chosen)
    )
    return f"<p>{keys}</p>"


def _last_values(found: Section, runs: Sequence[Run]) -> str:
    rows = []
    for panel in found.panels:
        for series in series_of(panel, runs):
            cells = [run.rows.last(series.tag) for run in runs]
            shown = [f"{short(cell[1])} <small>at {cell[0]:,}</small>" if cell else "" for cell in cells]
            rows.append([f"{text(panel.title)}, {text(series.label)} <small>({text(series.tag)})</small>", *shown])
    return folded("Last values as a table", table(["value", *run_heads(runs)], rows))


def run_heads(runs: Sequence[Run]) -> list[str]:
    """Heads of columns, one a run."""
    if len(runs) == 1:
        return ["last, and its step"]
    return [f"{key(number)}{letter(number)} <small>{text(run.label)}</small>" for number, run in enumerate(runs)]


def time_section(runs: Sequence[Run], spent: Sequence[TimeSpent | None]) -> str:
    """Where the time of the runs went, by their logs."""
    known = [(number, found) for number, found in enumerate(spent) if found is not None and found.total > 0]
    if not known:
        return (
            '<p class="quiet">Where time went is not known: it takes a log with the times of at least two lines, and '
            "the speed of some steps.</p>"
        )
    several = len(runs) > 1
    bars = [(letter(number) if several else "", found.shares) for number, found in known]
    chart = BarChart(
        "speed-time", "Where time went", "% of the time between the first start and the last line", PARTS, bars
    )
    keys = "".join(f"<span>{key(number)}{text(part)}&ensp;</span>" for number, part in enumerate(PARTS))
    rows = [
        [
            text(part),
            *(f"{duration(found.seconds[number])} <small>{found.shares[number]:.1%}</small>" for _, found in known),
        ]
        for number, part in enumerate(PARTS)
    ]
    head = ["part", *([run_heads(runs)[number] for number, _ in known] if several else ["time"])]
    return (
        '<figure id="speed-time"><figcaption><h3>Where time went</h3><p>From the times in the log and the speed in the '
        "rows. Between ranks is all that waits for other ranks. The rest of the steps is logging and the host's own "
        "work, and whole steps of runs of earlier releases, whose rows do not split them. The last part but one is all "
        "that is neither a step nor between two starts: start-up, evaluation, probes, saving, and steps that a restart "
        f"did again.</p><p>{keys}</p></figcaption>\n{chart.svg()}</figure>\n"
        + folded("Times as a table", table(head, rows))
    )


def duration(seconds: float) -> str:
    """A time span for people."""
    whole = round(seconds)
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {left:02d} s" if minutes else f"{left} s"
