"""What the study was to show, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.study.figures import Summary

_OWN = "hp_loss_own"
_DEFAULTS = (_OWN, "hp_loss_context_start_100", "hp_loss_context", "hp_dist")
"""Arms with the settings of shipped recipes, of one as it was shipped before the study, or of a sampler's defaults."""

Summaries = Mapping[str, Mapping[str, Summary]]


def targets(summaries: Summaries, baseline: str) -> list[list[str]]:
    """Rows of a table: the target, the figure (mean over seeds), and whether it was met."""
    rows: list[list[str]] = []

    def at_most(text: str, value: float | None, limit: float | None) -> None:
        if value is None or limit is None:
            rows.append([text, "not measured", "open"])
        else:
            rows.append([text, f"{value:.4f}, at most {limit:.4f}", "met" if value <= limit else "missed"])

    def at_least(text: str, value: float | None, limit: float) -> None:
        if value is not None:
            rows.append([text, f"{value:.4f}, at least {limit:.4f}", "met" if value >= limit else "missed"])

    at_least(f"{baseline}: pairs swapped", _mean(summaries, baseline, "pairs_swapped"), 0.85)
    at_least(f"{baseline}: pairs replaced", _mean(summaries, baseline, "pairs_replaced"), 0.70)
    if _OWN not in summaries:
        return rows
    for part, limit in (("early", 0.45), ("late", 0.35)):
        at_most(f"{_OWN}: draw ratio, {part}", _mean(summaries, _OWN, f"draw_ratio_{part}"), limit)
    own, control = (_mean(summaries, arm, "draw_ratio_late") for arm in (_OWN, "two_scalars"))
    at_most(f"{_OWN}: draw ratio, late, against two_scalars", own, control)
    for arm in _DEFAULTS:
        found = summaries.get(arm, {}).get("draw_ratio_max")
        largest = max(found.values.values(), default=None) if found else None
        at_most(f"{arm}: largest draw ratio of any seed", largest, 1.05)
    for part in ("early", "late"):
        ratio = _paired(summaries, _OWN, f"step_variance_{part}")
        at_most(f"{_OWN}: variance of L_D over steps against {baseline}, {part}", ratio, 0.75)
    bias = _mean(summaries, _OWN, "bias")
    at_most(f"{_OWN}: mean of w l off the plain mean by", None if bias is None else abs(bias), 0.01)
    short = _paired(summaries, _OWN, "auc")
    noise = summaries[baseline]["auc"].deviation if baseline in summaries else None
    at_most(
        f"{_OWN}: AUC below that of {baseline} by, against its deviation over seeds",
        None if short is None else -short,
        noise,
    )
    return rows


def _mean(summaries: Summaries, arm: str, name: str) -> float | None:
    return summaries[arm][name].mean if arm in summaries else None


def _paired(summaries: Summaries, arm: str, name: str) -> float | None:
    return summaries[arm][name].paired_mean if arm in summaries else None
