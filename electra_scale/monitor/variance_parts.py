"""How much of L_D's variance comes from the text, from the masks and from the draws: nested sums in, parts out."""

from __future__ import annotations

import math

from electra_scale.monitor.draw_variance import Floats, ratio_of_sums

PARTS = ("text", "masks", "draws", "all")


def parts_by_row(sums: Floats, tokens: Floats) -> dict[str, Floats]:
    """What each of N rows adds to the parts of L_D's variance (N,), given its sums (N, M, D) of w l.

    M masks of each row, D draws of each mask; ``tokens`` (N,) of the rows. L_D of a batch is its sum divided by its
    tokens, so a row counts by what its sum has beyond its tokens times the mean loss, in units of the mean number of
    tokens (the linear term of a ratio). Rows are independent: the mean over rows is the variance of a batch of one row,
    and a batch of B has 1/B of it. By the law of total variance, with the unbiased estimates of a nested design:

        Var[L] = Var_text(E[L | text]) + E Var_masks(E[L | text, masks]) + E Var_draws(L | text, masks)

    Raises:
        ValueError: fewer than two rows, masks or draws.
    """
    rows, masks, draws = sums.shape
    if min(sums.shape) < 2:
        raise ValueError(f"{rows} rows, {masks} masks and {draws} draws; each must be at least 2")
    loss = (sums - sums.mean((1, 2)).sum() / tokens.sum() * tokens[:, None, None]) / tokens.mean()
    of_draws: Floats = loss.var(2, ddof=1).mean(1)
    of_means = loss.mean(2).var(1, ddof=1)
    of_masks: Floats = of_means - of_draws / draws
    of_text: Floats = (loss.mean((1, 2)) - loss.mean()) ** 2 * rows / (rows - 1) - of_means / masks
    return dict(zip(PARTS, (of_text, of_masks, of_draws, of_text + of_masks + of_draws), strict=True))


def part_figures(p: dict[str, Floats], q: dict[str, Floats]) -> dict[str, dict[str, dict[str, float]]]:
    """The parts with draws from p and with those from q, by :data:`PARTS`.

    ``variance`` of a batch of one row with its ``error``, ``share`` of the whole with ``share_error``, and ``ratio`` to
    the same part with draws from p with ``ratio_error``; errors are over rows (the linear term of a jackknife). An
    estimate of text or masks may be below 0 where the part is small; a ratio to one that is not above 0 is NaN.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for source, parts in (("p", p), ("q", q)):
        found[source] = {}
        for name, part in parts.items():
            share, share_error = ratio_of_sums(part, parts["all"])
            ratio, ratio_error = ratio_of_sums(part, p[name])
            found[source][name] = {
                "variance": float(part.mean()),
                "error": float(part.std(ddof=1)) / math.sqrt(len(part)),
                "share": share,
                "share_error": share_error,
                "ratio": ratio,
                "ratio_error": ratio_error,
            }
    return found
