"""Which positions the generator has to predict, and which of them it sees as [MASK]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from electra_scale.data.noise import uniforms


def choose_positions(maskable: NDArray[np.bool_], order: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """Choose a share of each row's maskable positions, without replacement.

    ``maskable`` (B, S): neither special nor padding. ``order`` (B, S): the positions with the smallest numbers are
    taken. At least one a row, where it has any. (The original ELECTRA code draws with replacement, so that some
    positions come twice.)
    """
    available = maskable.sum(-1)
    wanted = np.minimum(np.maximum(np.rint(share * available), 1), available).astype(np.int64)
    ranked = np.argsort(np.argsort(np.where(maskable, order, 2.0), axis=-1, kind="stable"), axis=-1, kind="stable")
    return (ranked < wanted[:, None]) & maskable


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
    maskable = (segment >= 0) & ~np.isin(ids, special)
    chosen = choose_positions(maskable, uniforms(seed, epochs, samples, width, "mask"), mask_share)
    shown_as_mask = uniforms(seed, epochs, samples, width, "mask token") < mask_token_share
    return chosen, chosen & shown_as_mask
