"""Charts of a report: lines over steps, scores as dots with their errors, and shares of time as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from electra_scale.report.rows import Curve
from electra_scale.report.svg import INK, PAPER, QUIET, SERIES, STYLE, svg_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 5.6, 3.4
"""Inches, of which a page makes what its columns give: 72 units each, so that text is legible on a phone."""

_LABEL_SHARE = 0.082
"""Height of a line's label, as a share of the axes."""

_BELOW, _ABOVE = 0.56, 0.24
"""Inches under and over the axes."""

_LEFT = 0.145
"""Share of the width for the numbers and the name of a vertical axis."""

_LONGEST = 24
"""Letters of a label at most."""

_FEW = 40
"""Values that are marked one by one."""

_DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)))


@dataclass(frozen=True)
class Line:
    """A curve with what stands at its end, the number of its colour and of its dashes, and steps of values that were
    not finite. ``errors``: (step, value, standard error) of single points that belong to it."""

    label: str
    curve: Curve
    colour: int
    dashes: int = 0
    bad: Sequence[int] = ()
    errors: Sequence[tuple[int, float, float]] = ()


@dataclass(frozen=True)
class LineChart:
    """Lines over steps. ``name`` is a word for ids; ``reference`` a value with its name, such as that of chance."""

    name: str
    title: str
    unit: str
    lines: Sequence[Line]
    reference: tuple[float, str] | None = None
    phases: Sequence[tuple[int, str]] = ()
    restarts: Sequence[int] = ()

    def description(self) -> str:
        """What the chart shows, in words."""
        parts = []
        for line in self.lines:
            values = line.curve.values[np.isfinite(line.curve.values)]
            parts.append(
                f"{line.label or self.title}: {short(values[0])} at first, {short(values[-1])} at last, between "
                f"{short(float(np.nanmin(line.curve.low)))} and {short(float(np.nanmax(line.curve.high)))}"
            )
        return f"{self.unit} over training steps. {'; '.join(parts)}."

    def svg(self) -> str:
        """The chart for inlining in a page."""
        import matplotlib

        with matplotlib.rc_context(STYLE):
            names = [line.label for line in self.lines] + ([self.reference[1]] if self.reference else [])
            figure, axes = _figure(HEIGHT, _LEFT, 0.02 + max(map(_width, names)))
            # What is named first is on top.
            for number, line in enumerate(self.lines):
                _draw(axes, line, 3 - number / (1 + len(self.lines)))
            if self._spans_magnitudes():
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: short(value)))
                axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
                axes.set_ylabel(f"{self.unit}, log scale")
            else:
                axes.set_ylabel(self.unit)
                axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: short(value)))
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
            axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: _steps(value)))
            axes.set_xlabel("step")
            if self.reference is not None:
                axes.axhline(self.reference[0], color=QUIET, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
            self._mark_steps(axes)
            self._label_ends(axes)
            return svg_text(figure, self.name, self.title, self.description())

    def _spans_magnitudes(self) -> bool:
        """Whether a linear axis would hide most of the values: all are positive, and few are far above the others."""
        values = np.concatenate([line.curve.values for line in self.lines])
        low = np.concatenate([line.curve.low for line in self.lines])
        values = values[np.isfinite(values)]
        return bool(np.nanmin(low) > 0 and values.max() > 12 * np.median(values))

    def _mark_steps(self, axes: Axes) -> None:
        steps = np.concatenate([line.curve.steps for line in self.lines])
        first, last = np.nanmin(steps), np.nanmax(steps)
        for step, name in self.phases:
            # A plot that has values of one phase alone begins there.
            if not first < step <= last:
                continue
            axes.axvline(step, color=QUIET, linewidth=1, linestyle=(0, (1, 2)))
            axes.annotate(
                f"{name} from here",
                xy=(step, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                color=QUIET,
                ha="center",
                va="bottom",
                size=10,
            )
        restarts = [step for step in self.restarts if first <= step <= last]
        if restarts:
            bottom = axes.get_xaxis_transform()
            axes.plot(restarts, [0.0] * len(restarts), "^", color=QUIET, transform=bottom, clip_on=False, zorder=5)
        for line in self.lines:
            if len(line.bad):
                top = axes.get_xaxis_transform()
                colour = SERIES[line.colour % len(SERIES)]
                axes.plot(line.bad, [1.0] * len(line.bad), "x", color=colour, transform=top, clip_on=False, zorder=5)

    def _label_ends(self, axes: Axes) -> None:
        """The names of lines and of the reference at their ends, moved apart where they would cover each other."""
        # Limits are made when they are asked for, and the places of the labels follow from them.
        axes.get_xlim(), axes.get_ylim()
        ends = []
        for line in self.lines:
            last = np.flatnonzero(np.isfinite(line.curve.values))[-1]
            ends.append((float(line.curve.values[last]), line.label, SERIES[line.colour % len(SERIES)]))
        if self.reference is not None:
            ends.append((*self.reference, QUIET))
        heights = [float(axes.transAxes.inverted().transform(axes.transData.transform((0, end[0])))[1]) for end in ends]
        named = [(height, end) for height, end in zip(heights, ends, strict=True) if end[1]]
        named.sort(key=lambda pair: pair[0])
        for height, (_, label, colour) in zip(
            apart([pair[0] for pair in named]), [pair[1] for pair in named], strict=True
        ):
            axes.annotate(
                label,
                xy=(1.015, height),
                xycoords="axes fraction",
                va="center",
                color=colour,
                annotation_clip=False,
            )


@dataclass(frozen=True)
class Dot:
    """A score: ``seeds`` are the single values that it is the mean of; ``hollow`` for random weights."""

    value: float
    colour: int
    error: float | None = None
    seeds: Sequence[float] = ()
    hollow: bool = False


@dataclass(frozen=True)
class DotChart:
    """Scores by name, from top to bottom; ``chance`` by name where there is one."""

    name: str
    title: str
    unit: str
    rows: Sequence[tuple[str, Sequence[Dot]]]
    chance: dict[str, float] = field(default_factory=dict)

    def description(self) -> str:
        """What the chart shows, in words."""
        parts = [f"{name}: {', '.join(short(dot.value) for dot in dots)}" for name, dots in self.rows]
        return f"{self.unit}. {'; '.join(parts)}."

    def svg(self) -> str:
        """The chart for inlining in a page."""
        import matplotlib

        with matplotlib.rc_context(STYLE):
            labels = [_cut(name) for name, _ in self.rows]
            most = max(len(dots) for _, dots in self.rows)
            figure, axes = _figure(
                _BELOW + _ABOVE + (0.18 + 0.16 * most) * len(self.rows), 0.03 + max(map(_width, labels)), 0.03
            )
            for row, (name, dots) in enumerate(self.rows):
                if name in self.chance:
                    axes.plot(
                        [self.chance[name]] * 2,
                        [row - 0.35, row + 0.35],
                        color=QUIET,
                        linewidth=1.6,
                        linestyle=(0, (1, 1)),
                    )
                for number, dot in enumerate(dots):
                    # Side by side where several runs have the score.
                    place = row + (number - (len(dots) - 1) / 2) * 0.8 / (1 + most)
                    colour = SERIES[dot.colour % len(SERIES)]
                    axes.errorbar(
                        dot.value,
                        place,
                        xerr=dot.error,
                        fmt="o",
                        color=colour,
                        markersize=6.5,
                        capsize=3,
                        zorder=4,
                        markerfacecolor=PAPER if dot.hollow else colour,
                        markeredgewidth=1.4,
                    )
                    axes.plot(
                        dot.seeds, [place] * len(dot.seeds), "|", color=colour, alpha=0.75, markersize=8, zorder=3
                    )
            axes.set_yticks(range(len(self.rows)), labels)
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.set_ylim(len(self.rows) - 0.45, -0.55)
            axes.set_xlabel(self.unit)
            axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: short(value)))
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
            return svg_text(figure, self.name, self.title, self.description())


@dataclass(frozen=True)
class BarChart:
    """One bar a run, of shares that add up to 1 or less; ``parts`` names them from left to right."""

    name: str
    title: str
    unit: str
    parts: Sequence[str]
    bars: Sequence[tuple[str, Sequence[float]]]

    def description(self) -> str:
        """What the chart shows, in words."""
        bars = []
        for name, shares in self.bars:
            parts = zip(self.parts, shares, strict=True)
            bars.append(f"{name}: {', '.join(f'{part} {100 * share:.0f} %' for part, share in parts)}")
        return f"{self.unit}. {'; '.join(bars)}."

    def svg(self) -> str:
        """The chart for inlining in a page."""
        import matplotlib

        with matplotlib.rc_context(STYLE):
            labels = [_cut(name) for name, _ in self.bars]
            figure, axes = _figure(_BELOW + _ABOVE + 0.42 * len(self.bars), 0.03 + max(map(_width, labels)), 0.03)
            for row, (_, shares) in enumerate(self.bars):
                left = 0.0
                for number, share in enumerate(shares):
                    axes.barh(
                        row,
                        100 * share,
                        left=100 * left,
                        height=0.62,
                        color=SERIES[number % len(SERIES)],
                        edgecolor=PAPER,
                        linewidth=1.2,
                    )
                    if share > 0.09:
                        axes.text(
                            100 * (left + share / 2), row, f"{100 * share:.0f} %", ha="center", va="center", color=PAPER
                        )
                    left += share
            axes.set_yticks(range(len(self.bars)), labels)
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.set_ylim(len(self.bars) - 0.5, -0.5)
            axes.set_xlim(0, 100)
            axes.grid(axis="y", visible=False)
            axes.set_xlabel(self.unit)
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
            return svg_text(figure, self.name, self.title, self.description())


def apart(places: Sequence[float], least: float = _LABEL_SHARE) -> list[float]:
    """Ascending heights of labels, as shares of the axes, moved by a simple rule so that they are ``least`` apart."""
    heights = list(places)
    for number in range(1, len(heights)):
        heights[number] = max(heights[number], heights[number - 1] + least)
    # What has been pushed out at the top moves down again, and those below with it.
    limit = max(1.0, least * (len(heights) - 1))
    for number in reversed(range(len(heights))):
        heights[number] = min(heights[number], limit)
        limit = heights[number] - least
    return heights


def short(value: float) -> str:
    """A number with four digits that matter, as people write it."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if 0 < size < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-")
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if size >= limit:
            return f"{value / limit:.4g} {letter}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def _steps(value: float) -> str:
    size = abs(value)
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:.4g}{letter}"
    return f"{value:.4g}"


def _figure(height: float, left: float, right: float) -> tuple[Figure, Axes]:
    """A figure whose axes leave shares of its width free, the same for plots that stand side by side.

    matplotlib could find the margins itself, which takes it as long as the drawing.
    """
    # Without pyplot: no window system, no state that another caller could have changed.
    import matplotlib.ticker  # noqa: F401 - the charts name it through the package
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots()
    figure.subplots_adjust(left=left, right=1 - right, bottom=_BELOW / height, top=1 - _ABOVE / height)
    return figure, axes


def _width(label: str) -> float:
    """About the share of a chart's width that a label takes."""
    return len(label) * 0.0165


def _cut(label: str) -> str:
    """A label short enough to stand beside an axis; tables have all of it."""
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"


def _draw(axes: Axes, line: Line, order: float) -> None:
    curve, colour = line.curve, SERIES[line.colour % len(SERIES)]
    style: Any = _DASHES[line.dashes % len(_DASHES)]
    if curve.each > 1:
        axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(curve.steps, curve.values, color=colour, linestyle=style, zorder=order)
    there = np.isfinite(curve.values)
    if there.sum() <= _FEW:
        axes.plot(curve.steps, curve.values, ".", color=colour, markersize=6, zorder=order)
    else:
        # A value between two breaks makes no line.
        before, after = np.r_[False, there[:-1]], np.r_[there[1:], False]
        alone = there & ~before & ~after
        axes.plot(curve.steps[alone], curve.values[alone], ".", color=colour, markersize=5, zorder=order)
    for step, value, error in line.errors:
        axes.errorbar(step, value, yerr=error, fmt="s", color=colour, markersize=5, capsize=3, zorder=4)
