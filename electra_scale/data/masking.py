"""Which positions the generator has to predict, and which of them it sees as [MASK]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from electra_scale.data.noise import uniforms, uniforms_at


def choose_positions(maskable: NDArray[np.bool_], order: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """Choose a share of each row's maskable positions, without replacement.

    ``maskable`` (B, S): neither special nor padding. ``order`` (B, S) numbers: the positions with the smallest ones are
    chosen, at least one in a row that has any. (The original ELECTRA code draws with replacement, so that some
    positions are drawn twice.)
    """
    available = maskable.sum(-1)
    wanted = np.minimum(np.maximum(np.rint(share * available), 1), available).astype(np.int64)
    # Positions that are not maskable sort last. The bound is the largest number that is chosen in a row.
    ranking = np.where(maskable, order, np.inf)
    bound = np.take_along_axis(np.sort(ranking, axis=-1), np.maximum(wanted, 1)[:, None] - 1, axis=-1)
    chosen = (ranking <= bound) & maskable
    for row in np.flatnonzero(chosen.sum(-1) > wanted):
        # Of equal numbers at the bound, the first positions are chosen.
        chosen[row] = False
        chosen[row, np.argsort(ranking[row], kind="stable")[: wanted[row]]] = True
    return chosen


def masks(
    ids: NDArray[np.int64],
    segment: NDArray[np.int64],
    special: NDArray[np.int64],
    seed: int,
    epochs: NDArray[np.int64],
    samples: NDArray[np.int64],
    mask_share: float,
    mask_token_share: float,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Chosen positions (B, S), and those of them that become [MASK] (B, S); the others keep their token."""
    width = ids.shape[1]
    maskable = segment >= 0
    for token in special:
        maskable &= ids != token
    chosen = choose_positions(maskable, uniforms(seed, epochs, samples, width, "mask"), mask_share)
    flat = np.flatnonzero(chosen)
    shown = np.zeros_like(chosen)
    shown.reshape(-1)[flat] = uniforms_at(seed, epochs, samples, width, "mask token", flat) < mask_token_share
    return chosen, shown
