"""The plots of a store's report, as SVG texts that are the same for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data_pipeline.extras import needs_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Read well side by side, in grey print and by the colour-blind.
BLUE, ORANGE = "#0b6aa6", "#d9730d"
_BINS_PER_DOUBLING = 3
# More points than this can't be told apart on a logarithmic axis.
_CURVE_POINTS = 400
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "electra-scale",
    # Text stays text: smaller, and it can be searched and selected.
    "svg.fonttype": "none",
    # A dollar sign in a name is no formula.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "axes.edgecolor": "#8a929c",
    "axes.labelcolor": "#3c434b",
    "xtick.color": "#3c434b",
    "ytick.color": "#3c434b",
}


def check_plots() -> None:
    """Raises UserError unless matplotlib is installed."""
    with needs_extra("report", "matplotlib", "a page with plots"):
        import matplotlib  # noqa: F401 - only whether it is there


def length_plot(lengths: Mapping[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]) -> str:
    """Histogram of document lengths on a logarithmic axis.

    Args:
        lengths: for each split, distinct lengths in tokens (ascending) and how many documents have each.
    """
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure = _figure(7.6, 3.4)
        axes = figure.subplots()
        first = np.log2(max(1, min(int(values[0]) for values, _ in lengths.values())))
        last = np.log2(1 + max(int(values[-1]) for values, _ in lengths.values()))
        powers = np.arange(np.floor(_BINS_PER_DOUBLING * first), np.ceil(_BINS_PER_DOUBLING * last) + 1)
        edges = np.unique(np.ceil(2 ** (powers / _BINS_PER_DOUBLING)))
        # Lengths are whole numbers: half-way edges keep each in one bar.
        edges = edges - 0.5
        for (split, (values, documents)), colour in zip(lengths.items(), (BLUE, ORANGE), strict=False):
            height, _ = np.histogram(values, edges, weights=documents)
            share = 100 * height / documents.sum()
            axes.stairs(share, edges, fill=split == "train", color=colour, alpha=0.85, linewidth=1.6, label=split)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("tokens in a document")
        axes.set_ylabel("% of the split's documents")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        return _svg(figure)


def frequency_plot(counts: npt.NDArray[np.int64]) -> str:
    """How often each token occurs, by rank, and the share of the text that the tokens up to a rank cover.

    Args:
        counts: (n,) occurrences of the tokens that occur, in descending order.
    """
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure = _figure(7.6, 3.4)
        axes = figure.subplots()
        ranks = np.unique(np.geomspace(1, len(counts), _CURVE_POINTS).round().astype(np.int64))
        axes.loglog(ranks, counts[ranks - 1], color=BLUE, linewidth=2)
        axes.set_xlabel("rank of the token")
        axes.set_ylabel("occurrences", color=BLUE)
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
        cover = axes.twinx()
        cover.grid(False)
        cover.spines["right"].set_visible(True)
        cover.plot(ranks, 100 * np.cumsum(counts)[ranks - 1] / counts.sum(), color=ORANGE, linewidth=2, linestyle="--")
        cover.set_ylabel("% of the text covered so far", color=ORANGE)
        cover.set_ylim(0, 105)
        return _svg(figure)


def removed_plot(removed: Mapping[str, int]) -> str:
    """One bar for each reason that documents were dropped for; the first reason on top."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure = _figure(7.6, 0.9 + 0.34 * len(removed))
        axes = figure.subplots()
        names, values = list(removed), list(removed.values())
        bars = axes.barh(names, values, color=BLUE, height=0.65)
        axes.bar_label(bars, labels=[f"{value:,}" for value in values], padding=4, color="#3c434b")
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1.15 * max(1, *values))
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("documents (bad_lines: lines)")
        return _svg(figure)


def _figure(width: float, height: float) -> Figure:
    # Without pyplot: no window system, no state that another caller could have changed.
    import matplotlib.ticker  # noqa: F401 - the plots name it through the package
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = sink.getvalue()
    return text[text.index("<svg") :]
