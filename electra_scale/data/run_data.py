"""The rows that a run reads, as its recipe says: training and held out."""

from __future__ import annotations

from electra_scale.data.loader import Loader
from electra_scale.data.patience import Patience
from electra_scale.data.rows import SpecialTokens
from electra_scale.data.split import Split
from electra_scale.data.store import Store
from electra_scale.recipe.phases import phases
from electra_scale.recipe.recipe import Recipe

_HELDOUT_SEED = 0x5EED


def run_loader(
    recipe: Recipe, store: Store, split: str, special: SpecialTokens, patience: Patience | None = None
) -> Loader:
    """Rows of the ``train`` or the ``heldout`` split; held-out rows and masks are the same for every seed.

    Raises UserError if the store has no such split.
    """
    data = recipe.data
    training = split == "train"
    rows = Split(
        store, split, data.sequence_length, special, data.packing, data.packing_window, data.attend_across_documents
    )
    return Loader(
        rows,
        seed=recipe.seed if training else _HELDOUT_SEED,
        global_batch=recipe.batch.global_batch,
        mask_token_share=data.mask_token_share,
        streams=data.streams,
        window=data.shuffle_window,
        shuffle=training,
        masking=" ".join(f"{plan.name}:{plan.first}:mask_share={plan.mask_share}" for plan in phases(recipe)),
        mixture=(data.mixture or store.mixture) if training else None,
        patience=patience,
    )
