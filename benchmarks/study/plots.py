"""Plots of the study: the variance of the draws and of the loss along training, and what the discriminator detects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.study.arms import Study
from benchmarks.study.cost import ArmCost
from benchmarks.study.figures import WINDOW, Summary, by_step, rows_of_the_arm, series, variance_over_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VARIATIONS = "hp_loss"
"""How the names of its arms begin; they have a panel of their own."""
_IN_BOTH = ("hp_loss", "hp_loss_own")
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


def plot(study: Study, summaries: Mapping[str, Mapping[str, Summary]], cost: Mapping[str, ArmCost]) -> None:
    """Write the plots into ``plots/``; one without figures is left out.

    They go along the steps of the joint phase; where arms have other phases, along the operations since the first step
    of all.
    """
    import matplotlib

    folder = study.out / "plots"
    folder.mkdir(exist_ok=True)
    # A summary has the seeds that its figure was measured for.
    seeds = {arm: {seed for one in figures.values() for seed in one.values} for arm, figures in summaries.items()}
    runs = {arm: [study.run(arm, seed) for seed in sorted(found)] for arm, found in seeds.items()}
    by_cost = len({tuple((phase.name, phase.steps) for phase in one.phases) for one in cost.values()}) > 1
    along = "operations, 10^12, warm-up included" if by_cost else "joint step"

    def drawn(name: str, title: str, curve: Callable[[Path], Curve], logarithmic: bool = False) -> None:
        found = {arm: [curve(run) for run in folders] for arm, folders in runs.items()}
        if by_cost:
            found = {arm: [by_operations(one, cost[arm]) for one in curves] for arm, curves in found.items()}
        figure = _curves(found, title, along, study.baseline, logarithmic)
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=130)

    def logged(name: str) -> Callable[[Path], Curve]:
        return lambda run: series(rows_of_the_arm(run), name)

    preferred = "share of held-out pairs in which the true sentence is preferred"
    with matplotlib.rc_context(_STYLE):
        drawn(
            "draw_ratio",
            "variance of w l over draws, q against p, same weights",
            logged("disc_loss_variance/draw_ratio"),
        )
        drawn(
            "step_variance",
            f"variance of L_D over {WINDOW} steps, around a straight line",
            lambda run: moving_variance(series(rows_of_the_arm(run), "loss/discriminator")),
            logarithmic=True,
        )
        drawn("pairs_swapped", f"{preferred}, two words swapped", logged("eval/pairs_swapped"))
        drawn("pairs_replaced", f"{preferred}, one word replaced", logged("eval/pairs_replaced"))
        drawn("auc_by_step", "AUC against the common generator, held out", lambda run: by_step(run, "auc"))
        drawn(
            "detection_loss_by_step",
            "discriminator's loss against the common generator, held out, nats",
            lambda run: by_step(run, "discriminator_loss"),
        )
        drawn(
            "masked_prediction_by_step",
            "cross-entropy of what masked prediction has learned, held out, same masks, nats",
            lambda run: by_step(run, "generator_cross_entropy"),
        )
        figure = _auc(summaries)
        if figure is not None:
            figure.savefig(folder / "auc.png", dpi=130)


def by_operations(curve: Curve, cost: ArmCost) -> Curve:
    """A curve along steps, along operations in 10^12."""
    return np.array([(cost.flops_at(step) / 1e12, value) for step, value in curve], np.float64).reshape(-1, 2)


def moving_variance(losses: Curve) -> Curve:
    """Variance around a straight line over the last ``WINDOW`` steps, at every tenth of a window."""
    ends = range(WINDOW, len(losses) + 1, WINDOW // 10)
    found = [(losses[end - 1, 0], variance_over_steps(losses[end - WINDOW : end, 1])) for end in ends]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _curves(
    curves: Mapping[str, Sequence[Curve]], title: str, along: str, baseline: str, logarithmic: bool
) -> Figure | None:
    """Mean over seeds with a band from the least to the most; variations of one method, if any, on the right."""
    curves = {arm: [curve for curve in seeds if len(curve)] for arm, seeds in curves.items()}
    if not any(curves.values()):
        return None
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    twenty = colormaps["tab20"]
    panels = (False, True) if any(arm.startswith(_VARIATIONS) for arm in curves) else (False,)
    figure = Figure(figsize=(6 * len(panels) + 1.5 * (len(panels) == 1), 5.2), layout="constrained")
    figure.suptitle(title)
    for axes, variations in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        axes.set_prop_cycle(color=[twenty(number) for number in (*range(0, 20, 2), *range(1, 20, 2))])
        for arm, seeds in curves.items():
            both = arm in (baseline, *_IN_BOTH)
            if not seeds or not (both or arm.startswith(_VARIATIONS) == variations):
                continue
            length = min(len(curve) for curve in seeds)
            steps, values = seeds[0][:length, 0], np.stack([curve[:length, 1] for curve in seeds])
            (line,) = axes.plot(
                steps, values.mean(0), label=arm, linewidth=1.8, linestyle="--" if arm == baseline else "-"
            )
            axes.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set_xlabel(along)
        if logarithmic:
            axes.set_yscale("log")
        # Below the panel: with a dozen arms there is no free place inside.
        axes.legend(ncols=4 if len(panels) > 1 else 3, loc="upper center", bbox_to_anchor=(0.5, -0.12))
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
