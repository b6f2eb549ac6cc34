"""Examples in context: rows of a store with the masks and draws that measuring gives them."""

from __future__ import annotations

import numpy as np

from data_pipeline.errors import UserError
from electra_scale.data.loader import open_loader
from electra_scale.data.noise import generator_key, permuted
from electra_scale.data.store import Store, special_tokens
from electra_scale.inside.inside import Inside
from electra_scale.inside.looked import Looked
from electra_scale.inside.run import OpenedRun

_AMONG = 4096
"""Rows that examples are chosen from; the first rows of a loader for measuring are spread over its whole split."""


def examples(inside: Inside, store: Store, count: int, seed: int = 0, best: int = 8) -> list[Looked]:
    """Look at ``count`` held-out rows of a run's store, or at all there are if those are fewer.

    They come from the training text if the store holds no other. ``seed`` chooses them; masks and uniform numbers are
    those with which a run measures them (the recipe's share, some shown as they are), draws come from q.

    Raises UserError for what is no run, or for a store with another tokenizer than the run's.
    """
    opened = inside.opened
    if not isinstance(opened, OpenedRun):
        raise UserError(f"{inside.about.name} is no run, so it has no recipe to read rows of a store by; give a run")
    found = store.manifest.tokenizer.fingerprint
    if found != opened.state.tokenizer:
        raise UserError(
            f"{inside.about.name} was trained with tokenizer {opened.state.tokenizer}, but the store {store.url} has "
            f"{found}; name the store of the run"
        )
    split = "heldout" if store.manifest.split("heldout") else "train"
    loader = open_loader(opened.recipe, store, split, special_tokens(store.tokenizer_dir), training=False)
    among = min(loader.samples, _AMONG)
    wanted = np.arange(min(count, among), dtype=np.int64)
    keys = np.full(len(wanted), generator_key(seed, "examples"), dtype=np.uint64)
    rows = permuted(wanted, np.full(len(wanted), among, dtype=np.int64), keys)
    share = opened.recipe.data.mask_share
    return [inside.look_at(loader.rows(rows[place : place + 1], share), best=best) for place in range(len(rows))]
