"""The batches of a global step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.errors import OneRankError, UserError
from data_pipeline.places.retries import retries
from electra_scale.data.masking import masks
from electra_scale.data.mixture import Mixture
from electra_scale.data.noise import uniforms_at
from electra_scale.data.order import Order
from electra_scale.data.patience import Patience
from electra_scale.data.prefetch import Prefetcher
from electra_scale.data.rows import gather
from electra_scale.data.split import Split

STATE_VERSION = 2

_POSITIONS_TOGETHER = 1 << 19
"""Positions that a thread puts together at once: looking up many rows costs less for each than looking up few."""


@dataclass
class Batch:
    """Rows and their noise.

    ``ids`` (B, S) tokens; ``segment`` (B, S) document of the row, -1 padding; ``masked`` (M,) flat indices into B x S
    of the positions that the generator predicts; ``shown_as_mask`` (M,) whether it sees [MASK] there or the token;
    ``uniform`` (M,) float64 numbers in [0, 1) for the replacement draw.
    """

    ids: Tensor
    segment: Tensor
    masked: Tensor
    shown_as_mask: Tensor
    uniform: Tensor

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        return Batch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    def split(self, rows: int) -> list[Batch]:
        """The same rows in batches of ``rows`` (a divisor of B)."""
        width = self.ids.shape[1]
        starts = torch.arange(0, len(self.ids) + 1, rows)
        bounds = torch.searchsorted(self.masked, starts * width).tolist()
        return [
            Batch(
                self.ids[start : start + rows],
                self.segment[start : start + rows],
                self.masked[low:high] - start * width,
                self.shown_as_mask[low:high],
                self.uniform[low:high],
            )
            for start, low, high in zip(starts.tolist(), bounds[:-1], bounds[1:], strict=False)
        ]


@dataclass
class LoaderState:
    """Where a run stands in its data; all that is needed to go on."""

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
        mask_token_share: float,
        streams: int,
        window: int,
        shuffle: bool = True,
        masking: str = "",
        mixture: Mapping[str, float] | None = None,
        patience: Patience | None = None,
    ) -> None:
        """``masking`` says which mask share the batches will be asked for, and when; it is compared on resume.

        ``mixture`` is the weight of each source label; none: every row once an epoch. ``patience`` is shared by all
        that read the store; without one, a store that does not answer ends the run at once.
        """
        self.split = split
        self.seed = seed
        self.global_batch = global_batch
        self.window = window
        self.mask_token_share = mask_token_share
        self.patience = patience or Patience(0.0, lambda _: None)
        self.fingerprint = split.store.manifest.fingerprint
        weights = " ".join(f"{label}:{weight:g}" for label, weight in sorted((mixture or {}).items()))
        self.settings = (
            f"sequence_length={split.sequence_length} global_batch={global_batch} streams={streams} window={window} "
            f"shuffle={shuffle} packing={split.packing} packing_window={split.packing_window} "
            f"attend_across_documents={split.attend_across} mixture=[{weights}] "
            f"mask_token_share={mask_token_share} {masking}".rstrip()
        )
        self.order: Order | Mixture
        if mixture:
            self.order = Mixture(
                split.rows, split.sources, mixture, self.fingerprint, seed, global_batch, streams, window, shuffle
            )
        else:
            self.order = Order(split.rows, self.fingerprint, seed, global_batch, streams, window, shuffle)
        self._special = split.special.ids()

    @property
    def samples(self) -> int:
        """Rows in an epoch."""
        return self.order.samples

    @property
    def streams(self) -> int:
        """Canonical streams, as many as asked for or fewer."""
        return self.order.streams

    def batch(self, step: int, first: int, count: int, mask_share: float) -> Batch:
        """Rows ``first`` to ``first + count`` of global step ``step``; a rank asks for its own slice only.

        Raises:
            OneRankError: the store gave no answer for too long, or holds what can't be read.
        """
        return self.rows(self._positions(step, step + 1, first, count), mask_share)

    def rows(self, positions: NDArray[np.int64], mask_share: float) -> Batch:
        """The rows at ``positions`` (B,) of the run. Raises OneRankError, see :meth:`batch`."""
        places = self.order.places(positions)
        try:
            ids, segment = self.patience.insist(lambda: gather(places, self.split.open, self.split.sequence_length))
        except UserError as error:
            raise OneRankError(str(error)) from error
        self.split.rows_were_read(len(positions))
        chosen, shown = masks(
            ids, segment, self._special, self.seed, places.epoch, places.sample, mask_share, self.mask_token_share
        )
        # Indices are found here, on the host: on a device, looking for them would make the host wait.
        masked = np.flatnonzero(chosen)
        uniform = uniforms_at(self.seed, places.epoch, places.sample, ids.shape[1], "replacement", masked)
        parts = (ids, segment, masked, shown.reshape(-1)[masked], uniform)
        return Batch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))

    def run(
        self,
        first_step: int,
        last_step: int,
        first: int,
        count: int,
        micro: int,
        mask_share: float,
        threads: int = 0,
        ahead: int = 0,
    ) -> Prefetcher[list[Batch]]:
        """Rows ``first`` to ``first + count`` of each step in turn, in micro-batches of ``micro``.

        ``threads`` read ahead, and fetch ``ahead`` shards before they are needed; the batches are the same for any.
        """

        def needs(begin: int, end: int) -> NDArray[np.int64]:
            return self.order.places(self._positions(begin, end, first, count)).shard.reshape(end - begin, count)

        def assemble(begin: int, end: int) -> list[list[Batch]]:
            parts = self.rows(self._positions(begin, end, first, count), mask_share).split(micro)
            each = count // micro
            return [parts[start : start + each] for start in range(0, len(parts), each)]

        return Prefetcher(
            first_step,
            last_step,
            needs,
            assemble,
            self.split if self.split.store.cache is not None else None,
            threads,
            ahead,
            max(1, _POSITIONS_TOGETHER // (count * self.split.sequence_length)),
            self.patience,
        )

    def working_set(self, nodes: int, ahead: int) -> int:
        """About how many bytes of shards one of ``nodes`` nodes reads from at once, ``ahead`` more fetched."""
        sizes = [entry.bytes for entry in self.split.entries]
        mean = sum(sizes) / len(sizes)
        # A stream shuffles within a window, and so reads from all shards that the window lies over.
        shards = self.window * len(sizes) / int(self.split.rows.sum()) + 1
        share = -(-sum(sizes) // nodes)
        return min(share, int(-(-self.streams // nodes) * shards * mean)) + ahead * max(sizes)

    def fetched(self) -> tuple[int, int]:
        """Bytes fetched from the store by this process, and tries that failed or gave damaged bytes."""
        cache = self.split.store.cache
        if cache is None:
            return 0, 0
        return cache.fetched.bytes, cache.fetched.errors + retries.count + self.patience.failures

    def state(self, step: int) -> LoaderState:
        """The state after ``step`` global steps."""
        samples = step * self.global_batch
        return LoaderState(self.fingerprint, self.settings, self.seed, samples // self.samples, samples)

    def check(self, state: dict[str, object]) -> int:
        """The global step that a saved state stands for; raises UserError if it belongs to other data or settings."""
        if state.get("version") != STATE_VERSION:
            raise UserError(
                f"cannot resume: the checkpoint's loader state has version {state.get('version')}, this program reads "
                f"{STATE_VERSION}; go on with the release that began the run, or start a new run"
            )
        ours = self.state(0).to_dict()
        for name, advice in (
            ("fingerprint", "point data.store at the store that the run began with, or start a new run"),
            ("settings", "restore those settings, or start a new run"),
            ("seed", "restore the seed, or start a new run"),
        ):
            if state.get(name) != ours[name]:
                raise UserError(
                    f"cannot resume: the checkpoint's data {name} is {state.get(name)}, "
                    f"this run's is {ours[name]}; {advice}"
                )
        return int(str(state["samples"])) // self.global_batch

    def _positions(self, begin: int, end: int, first: int, count: int) -> NDArray[np.int64]:
        """Positions of rows ``first`` to ``first + count`` of steps ``begin`` to ``end``, step after step."""
        starts = np.arange(begin, end, dtype=np.int64)[:, None] * self.global_batch
        return (starts + np.arange(first, first + count, dtype=np.int64)).reshape(-1)
