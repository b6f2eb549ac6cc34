"""The loader: the batches of every global step, in an order that is a pure function of the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.errors import OneRankError, UserError
from data_pipeline.places.retries import retries
from electra_scale.data.batch import Batch
from electra_scale.data.masking import masks
from electra_scale.data.mixture import Mixture
from electra_scale.data.noise import uniforms_at
from electra_scale.data.order import Order
from electra_scale.data.prefetch import Prefetcher
from electra_scale.data.retry_budget import RetryBudget
from electra_scale.data.rows import SpecialTokens, gather
from electra_scale.data.shard_schedule import ShardSchedule
from electra_scale.data.split import Split
from electra_scale.data.spread import Spread
from electra_scale.data.store import Store
from electra_scale.recipe.phases import phases
from electra_scale.recipe.recipe import Recipe

STATE_VERSION = 2

_HELDOUT_SEED = 0x5EED

_OF_MASKS = " mask_token_share="
"""Where the text of the settings comes to those of the masks."""

_POSITIONS_TOGETHER = 1 << 19
"""Positions that a thread assembles at once: looking up many rows costs less for each than looking up few."""


@dataclass
class LoaderState:
    """The position of a run in its data, and the settings that this position is valid for."""

    fingerprint: str
    settings: str
    seed: int
    epoch: int
    samples: int
    version: int = STATE_VERSION

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


class Loader:
    """Batches of a split in the run's order, with keyed noise. Global step g consumes positions [g GB, (g+1) GB)."""

    def __init__(
        self,
        split: Split,
        seed: int,
        global_batch: int,
        *,
        shuffle: bool = True,
        masking: str = "",
        mixture: Mapping[str, float] | None = None,
        spread: bool = False,
        budget: RetryBudget | None = None,
    ) -> None:
        """All further settings are those of ``split.config``.

        ``masking`` describes which mask share the batches of each phase have; it is compared on resume. ``mixture`` is
        the weight of each source label; without one, every row comes once an epoch. ``spread`` is for measuring: the
        first rows, however many, are spread over the whole split (spread.py). ``budget`` is shared by all that read the
        store; without one, a store that does not answer ends the run at once.
        """
        self.split = split
        self.config = config = split.config
        self.seed = seed
        self.global_batch = global_batch
        self.budget = budget or RetryBudget(0.0, lambda _: None)
        self.fingerprint = split.store.manifest.fingerprint
        weights = " ".join(f"{label}:{weight:g}" for label, weight in sorted((mixture or {}).items()))
        # Checkpoints hold this text and are compared with it: it may not change.
        self.settings = (
            f"sequence_length={config.sequence_length} global_batch={global_batch} streams={config.streams} "
            f"window={config.shuffle_window} shuffle={shuffle} packing={config.packing} "
            f"packing_window={config.packing_window} attend_across_documents={config.attend_across_documents} "
            f"mixture=[{weights}] mask_token_share={config.mask_token_share} {masking}".rstrip()
        )
        self.order: Order | Mixture | Spread
        if spread:
            self.order = Spread(split.rows, split.sources, self.fingerprint, seed)
        elif mixture:
            self.order = Mixture(
                split.rows, split.sources, mixture, self.fingerprint, seed, global_batch, config, shuffle
            )
        else:
            self.order = Order(split.rows, self.fingerprint, seed, global_batch, config, shuffle)
        self._special = split.special.ids()

    @property
    def samples(self) -> int:
        """Rows in an epoch."""
        return self.order.samples

    def sources(self, positions: NDArray[np.int64]) -> list[str]:
        """The source of the row at each of ``positions`` (n,)."""
        return [self.split.sources[shard] for shard in self.order.places(positions).shard]

    def batch(self, step: int, first: int, count: int, mask_share: float) -> Batch:
        """Rows ``first`` to ``first + count`` of global step ``step``; a rank asks for its own slice only.

        Raises:
            OneRankError: the store failed to answer for too long, or holds what can't be read.
        """
        return self.rows(self._positions(range(step, step + 1), first, count), mask_share)

    def rows(self, positions: NDArray[np.int64], mask_share: float) -> Batch:
        """The rows at ``positions`` (B,) of the run. Raises OneRankError, see :meth:`batch`."""
        places = self.order.places(positions)
        try:
            ids, segment = self.budget.retry(lambda: gather(places, self.split.open, self.config.sequence_length))
        except UserError as error:
            raise OneRankError(str(error)) from error
        self.split.rows_were_read(len(positions))
        chosen, shown = masks(
            ids,
            segment,
            self._special,
            self.seed,
            places.epoch,
            places.sample,
            mask_share,
            self.config.mask_token_share,
        )
        # Indices are found here, on the host: on a device, looking for them would make the host wait.
        masked = np.flatnonzero(chosen)
        uniform = uniforms_at(self.seed, places.epoch, places.sample, ids.shape[1], "replacement", masked)
        return Batch(
            ids=_tensor(ids),
            segment=_tensor(segment),
            masked=_tensor(masked),
            shown_as_mask=_tensor(shown.reshape(-1)[masked]),
            uniform=_tensor(uniform),
        )

    def feed(
        self,
        first_step: int,
        last_step: int,
        first: int,
        count: int,
        micro: int,
        mask_share: float,
        pinned: bool = False,
    ) -> Prefetcher[list[Batch]]:
        """Rows ``first`` to ``first + count`` of each step in turn, in micro-batches of ``micro``.

        ``pinned``: in memory that a CUDA device copies from, which the threads fill too.

        The config's ``prefetch_threads`` read ahead, and fetch ``prefetch_shards`` before they are needed; the batches
        are the same for any.
        """

        def needs(steps: range) -> NDArray[np.int64]:
            return self.order.places(self._positions(steps, first, count)).shard.reshape(len(steps), count)

        def assemble(steps: range) -> list[list[Batch]]:
            parts = self.rows(self._positions(steps, first, count), mask_share).split(micro)
            if pinned:
                parts = [part.pinned() for part in parts]
            each = count // micro
            return [parts[start : start + each] for start in range(0, len(parts), each)]

        steps = range(first_step, last_step)
        schedule = None
        if self.split.store.cache is not None:
            schedule = ShardSchedule(steps, needs, self.split.fetch, self.config.prefetch_shards)
        together = max(1, _POSITIONS_TOGETHER // (count * self.config.sequence_length))
        return Prefetcher(steps, assemble, self.config.prefetch_threads, together, self.budget, schedule)

    def working_set(self, nodes: int, ahead: int) -> int:
        """About how many bytes of shards one of ``nodes`` nodes reads from at once, with ``ahead`` more fetched."""
        sizes = [entry.bytes for entry in self.split.entries]
        mean = sum(sizes) / len(sizes)
        # A stream shuffles within a window, and so reads from all shards that the window lies over.
        shards = self.config.shuffle_window * len(sizes) / int(self.split.rows.sum()) + 1
        share = -(-sum(sizes) // nodes)
        return min(share, int(-(-self.order.streams // nodes) * shards * mean)) + ahead * max(sizes)

    def fetched(self) -> tuple[int, int]:
        """Bytes fetched from the store by this process, and attempts that failed or gave damaged bytes."""
        cache = self.split.store.cache
        if cache is None:
            return 0, 0
        return cache.fetched.bytes, cache.fetched.errors + retries.count + self.budget.failures

    def state(self, step: int) -> LoaderState:
        """The state after ``step`` global steps."""
        samples = step * self.global_batch
        return LoaderState(self.fingerprint, self.settings, self.seed, samples // self.samples, samples)

    def check(self, state: dict[str, object], masks_may_change: bool = False) -> int:
        """The global step that a saved state stands for; raises UserError if it belongs to other data or settings.

        Masks are drawn anew in each step, so other shares leave the position as it is.
        """
        if state.get("version") != STATE_VERSION:
            raise UserError(
                f"cannot resume: the checkpoint's loader state has version {state.get('version')}, this program reads "
                f"version {STATE_VERSION}; continue with the release that started the run, or start a new run"
            )
        ours = self.state(0).to_dict()
        for name, advice in (
            ("fingerprint", "point data.store at the store that the run started with, or start a new run"),
            ("settings", "restore those settings, or start a new run"),
            ("seed", "restore the seed, or start a new run"),
        ):
            saved, own = str(state.get(name)), str(ours[name])
            if masks_may_change and name == "settings":
                saved, own = (text.partition(_OF_MASKS)[0] for text in (saved, own))
            if saved != own:
                raise UserError(
                    f"cannot resume: the checkpoint's data {name} is {state.get(name)}, "
                    f"this run's is {ours[name]}; {advice}"
                )
        samples = state.get("samples")
        if not isinstance(samples, int):
            raise UserError(f"cannot resume: the checkpoint's data position is {samples!r}; resume from another one")
        return samples // self.global_batch

    def _positions(self, steps: range, first: int, count: int) -> NDArray[np.int64]:
        """Positions of rows ``first`` to ``first + count`` of each of ``steps``, step after step."""
        starts = np.arange(steps.start, steps.stop, dtype=np.int64)[:, None] * self.global_batch
        return (starts + np.arange(first, first + count, dtype=np.int64)).reshape(-1)


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def open_loader(
    recipe: Recipe,
    store: Store,
    split: str,
    special: SpecialTokens,
    budget: RetryBudget | None = None,
    *,
    training: bool = True,
) -> Loader:
    """The loader of the ``train`` or the ``heldout`` split, as a recipe describes it.

    Held-out rows, or those of any split if it is not for ``training``, are spread over the whole split; they and their
    masks are the same for every seed of a run. Raises UserError if the store has no such split.
    """
    training = training and split == "train"
    return Loader(
        Split(store, split, special, recipe.data),
        recipe.seed if training else _HELDOUT_SEED,
        recipe.batch.global_batch,
        shuffle=training,
        masking=" ".join(f"{plan.name}:{plan.first}:mask_share={plan.mask_share}" for plan in phases(recipe)),
        mixture=(recipe.data.mixture or store.mixture) if training else None,
        spread=not training,
        budget=budget,
    )
