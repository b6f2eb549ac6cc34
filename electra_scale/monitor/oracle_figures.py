"""How much of what a sampler could gain is reached: rows of redraws go in, ratios with their errors come out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from electra_scale.monitor.draw_variance import Floats, ratio_of_sums

LOSSES = ("masked", "others", "both")
"""The sum of w l at masked positions, that of l at all other tokens, and the two together."""


@dataclass(frozen=True)
class Enumerated:
    """Of one row, summed over its masked positions: what the candidates alone give, the other replacements fixed.

    ``covered``: the probability that p gives the candidates. ``loss`` and ``gradient``: the variance of w l, and of w
    times the slope of l on the logit, by what is drawn from; ``least_gradient``: the least that any q has.
    """

    covered: float
    loss: dict[str, float]
    gradient: dict[str, float]
    least_gradient: float


@dataclass(frozen=True)
class Redraws:
    """Of one row and one q: variances over draws in G groups, each by :data:`LOSSES`.

    ``mean`` (3,) of the sums of losses, ``sum`` (G, 3) their variances, ``gradient`` (G, 3) by part of the
    discriminator, the traces of covariances; ``weight``, ``weight_squared``: sums over draws and positions.
    """

    mean: list[float]
    sum: list[list[float]]
    gradient: dict[str, list[list[float]]]
    weight: float
    weight_squared: float
    weight_max: float


@dataclass(frozen=True)
class OracleRow:
    """What is known of a row with ``masked`` positions and ``tokens`` that are no padding; redraws by q."""

    row: int
    masked: int
    tokens: int
    enumerated: Enumerated
    redraws: dict[str, Redraws]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a line of JSON."""
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> OracleRow:
        """What :meth:`to_dict` gave."""
        redraws = {name: Redraws(**one) for name, one in content["redraws"].items()}
        return cls(**{**content, "enumerated": Enumerated(**content["enumerated"]), "redraws": redraws})


def oracle_figures(rows: Sequence[OracleRow]) -> dict[str, Any]:
    """The figures over all rows; each variance divided by that of draws from p, with its standard errors.

    Draws of different rows are independent, so the variances of sums over rows are sums of the rows' variances.
    ``error_draws`` is that of other draws at the same rows, from the groups; ``error_rows`` that of other rows, which
    has the former in it.
    """
    positions = sum(row.masked for row in rows)
    first = rows[0]
    parts = [*first.redraws["p"].gradient]
    readers: dict[str, Callable[[Redraws], Floats]] = {"loss": lambda one: np.array(one.sum)}
    for name in ("all parameters", *parts):
        readers[name] = _gradient_reader(parts if name == "all parameters" else [name])
    return {
        "rows": len(rows),
        "positions": positions,
        "tokens": sum(row.tokens for row in rows),
        "covered": sum(row.enumerated.covered for row in rows) / positions,
        "enumerated": {
            "loss": _enumerated([row.enumerated.loss for row in rows], [0.0] * len(rows), positions),
            "gradient": _enumerated(
                [row.enumerated.gradient for row in rows], [row.enumerated.least_gradient for row in rows], positions
            ),
        },
        "drawn": {
            name: {
                "ess": _ess([row.redraws[name] for row in rows], positions),
                "weight_max": max(row.redraws[name].weight_max for row in rows),
                "mean_masked_loss": sum(row.redraws[name].mean[0] for row in rows) / positions,
                **{
                    what: {split: _compared(rows, name, read, number) for number, split in enumerate(LOSSES)}
                    for what, read in readers.items()
                },
            }
            for name in first.redraws
        },
    }


def _gradient_reader(parts: Sequence[str]) -> Callable[[Redraws], Floats]:
    def read(one: Redraws) -> Floats:
        found: Floats = np.sum([one.gradient[part] for part in parts], axis=0)
        return found

    return read


def _ess(redraws: Sequence[Redraws], positions: int) -> float:
    """Effective sample size as a share of the draws, since E[w] = 1."""
    weight, squared = sum(one.weight for one in redraws), sum(one.weight_squared for one in redraws)
    # The mean of w is 1 up to noise, so the number of draws is the sum of the weights.
    return weight / squared if squared else math.nan


def _enumerated(by_row: Sequence[Mapping[str, float]], least: Sequence[float], positions: int) -> dict[str, Any]:
    plain, floor = np.array([row["p"] for row in by_row]), np.array(least)
    found: dict[str, Any] = {}
    for name in by_row[0]:
        variance = np.array([row[name] for row in by_row])
        ratio, error = ratio_of_sums(variance, plain)
        reached, reached_error = ratio_of_sums(plain - variance, plain - floor)
        found[name] = {
            "variance": float(variance.sum()) / positions,
            "ratio": ratio,
            "error_rows": error,
            "reached": reached,
            "reached_error_rows": reached_error,
        }
    ratio, error = ratio_of_sums(floor, plain)
    found["least"] = {"variance": float(floor.sum()) / positions, "ratio": ratio, "error_rows": error}
    return found


def _compared(rows: Sequence[OracleRow], name: str, read: Callable[[Redraws], Floats], number: int) -> dict[str, float]:
    """A variance against that of draws from p, and which share of the variance of both losses together it is."""
    ours, plain = (np.array([read(row.redraws[one])[:, number] for row in rows]) for one in (name, "p"))
    both = np.array([read(row.redraws[name])[:, -1] for row in rows])
    ratio, error_rows = ratio_of_sums(ours.mean(1), plain.mean(1))
    groups = ours.shape[1]
    error_draws = math.nan
    if groups > 1 and not math.isnan(ratio):
        residual = ours - ratio * plain
        error_draws = math.sqrt(float(residual.var(1, ddof=1).sum()) / groups) / float(plain.mean(1).sum())
    return {
        "variance": float(ours.mean(1).sum()),
        "ratio": ratio,
        "error_draws": error_draws,
        "error_rows": error_rows,
        "share": ratio_of_sums(ours.mean(1), both.mean(1))[0],
    }
