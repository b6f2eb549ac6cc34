"""Plots of the study: the variance of the draws and of the loss along training, and what the discriminator detects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.study.figures import WINDOW, Summary, detected_by_step, read_rows, series, variance_over_steps
from benchmarks.study.runs import BASELINE, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VARIATIONS = "hp_loss"
"""How the names of its arms begin."""
_IN_BOTH = (BASELINE, "hp_loss", "hp_loss_own")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "legend.frameon": False,
    "legend.fontsize": 7,
}

Curve = NDArray[np.float64]
"""(n, 2): steps and values."""


def plot(study: Study, summaries: Mapping[str, Mapping[str, Summary]]) -> None:
    """Write the plots into ``plots/``; one without figures is left out."""
    import matplotlib

    folder = study.out / "plots"
    folder.mkdir(exist_ok=True)
    rows = {
        (arm, seed): [row for row in read_rows(study.run(arm, seed)) if row["phase"] == "joint"]
        for arm, figures in summaries.items()
        for seed in next(iter(figures.values())).values or study.seeds
    }
    curves: dict[str, Callable[[list[dict[str, Any]]], Curve]] = {
        "draw_ratio": lambda found: series(found, "disc_loss_variance/draw_ratio"),
        "step_variance": lambda found: moving_variance(series(found, "loss/discriminator")),
        "pairs_swapped": lambda found: series(found, "eval/pairs_swapped"),
        "pairs_replaced": lambda found: series(found, "eval/pairs_replaced"),
    }
    titles = {
        "pairs_swapped": "share of held-out pairs in which the true sentence is preferred, two words swapped",
        "pairs_replaced": "share of held-out pairs in which the true sentence is preferred, one word replaced",
        "draw_ratio": "variance of w l over draws, q against p, same weights",
        "step_variance": f"variance of L_D over {WINDOW} steps, around a straight line",
    }
    with matplotlib.rc_context(_STYLE):
        for name, curve in curves.items():
            found = {arm: [curve(rows[pair]) for pair in rows if pair[0] == arm] for arm in summaries}
            figure = _curves(found, titles[name], logarithmic=name == "step_variance")
            if figure is not None:
                figure.savefig(folder / f"{name}.png", dpi=130)
        found = {arm: [detected_by_step(study.run(*pair)) for pair in rows if pair[0] == arm] for arm in summaries}
        figure = _curves(found, "AUC against the common generator, held out", logarithmic=False)
        if figure is not None:
            figure.savefig(folder / "auc_by_step.png", dpi=130)
        figure = _auc(summaries)
        if figure is not None:
            figure.savefig(folder / "auc.png", dpi=130)


def moving_variance(losses: Curve) -> Curve:
    """Variance around a straight line over the last ``WINDOW`` steps, at every tenth of a window."""
    ends = range(WINDOW, len(losses) + 1, WINDOW // 10)
    found = [(losses[end - 1, 0], variance_over_steps(losses[end - WINDOW : end, 1])) for end in ends]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _curves(curves: Mapping[str, Sequence[Curve]], title: str, logarithmic: bool) -> Figure | None:
    """Mean over seeds with a band from the least to the most; methods on the left, variations of one on the right."""
    curves = {arm: [curve for curve in seeds if len(curve)] for arm, seeds in curves.items()}
    if not any(curves.values()):
        return None
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    twenty = colormaps["tab20"]
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    figure.suptitle(title)
    for axes, variations in zip(panels, (False, True), strict=True):
        axes.set_prop_cycle(color=[twenty(number) for number in (*range(0, 20, 2), *range(1, 20, 2))])
        for arm, seeds in curves.items():
            both = arm in _IN_BOTH
            if not seeds or not (both or arm.startswith(_VARIATIONS) == variations):
                continue
            length = min(len(curve) for curve in seeds)
            steps, values = seeds[0][:length, 0], np.stack([curve[:length, 1] for curve in seeds])
            (line,) = axes.plot(
                steps, values.mean(0), label=arm, linewidth=1.8, linestyle="--" if arm == BASELINE else "-"
            )
            axes.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set_xlabel("joint step")
        if logarithmic:
            axes.set_yscale("log")
        # Below the panel: with a dozen arms there is no free place inside.
        axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return figure


def _auc(summaries: Mapping[str, Mapping[str, Summary]]) -> Figure | None:
    found = {arm: figures["auc"] for arm, figures in summaries.items() if figures["auc"].values}
    if not found:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.2 + 0.3 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, summary in enumerate(found.values()):
        axes.errorbar(summary.mean or 0.0, place, xerr=summary.deviation or 0.0, fmt="o", color="#0b6aa6", capsize=3)
        axes.plot(list(summary.values.values()), [place] * len(summary.values), ".", color="#d9730d", markersize=4)
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("AUC against the common generator, held out: mean, deviation, seeds")
    return figure
