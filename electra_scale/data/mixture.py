"""Mixtures: several sources in one order, each with a fixed share of the samples, through its own epochs.

Every canonical stream draws from all sources. Its steps come in pattern blocks. In a block each source has the same
number of draws in every stream, in an order keyed by block and stream; so the shares hold exactly in every block, and
the batches inside a block are mixed too. The draws of a source, counted through blocks, are positions of an order of
its own that has one slot for each stream: so a source runs through its epochs exactly, short sources repeat sooner than
long ones, and a rank still reads only its part of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import UserError
from electra_scale.data.noise import generator_key, hashes
from electra_scale.data.order import Order, Places, stream_count
from electra_scale.recipe.data import DataConfig

PATTERN = 1024
"""Least number of steps of a stream in a pattern block; it is rounded up to whole batches."""

_BLOCKS = 4
"""Pattern blocks that are kept in memory."""


class Mixture:
    """The order of a run over sources with weights; it has the methods of :class:`~electra_scale.data.order.Order`.

    ``rows`` (shards,) rows of each shard in manifest order and ``sources`` the label of each; ``weights`` of the labels
    count samples, which are all equally long. Sources without a weight are left out. The other arguments are those of
    Order. Raises UserError for a weight that is not positive, or a label that the store does not have.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        sources: Sequence[str],
        weights: Mapping[str, float],
        fingerprint: str,
        seed: int,
        global_batch: int,
        config: DataConfig,
        shuffle: bool = True,
    ) -> None:
        rows = np.asarray(rows, dtype=np.int64)
        labels = np.array(sources)
        self.labels = sorted(weights)
        shards = {label: np.flatnonzero((labels == label) & (rows > 0)) for label in self.labels}
        _check(weights, shards, sorted(set(sources)))
        self.shards = [shards[label] for label in self.labels]
        self.global_batch = global_batch
        self.streams = stream_count(global_batch, config.streams)
        self.seed = seed
        self.fingerprint = fingerprint
        self.shuffle = shuffle
        # With a batch of one position for each stream, the order of a source has as many streams as the mixture.
        self.orders = [
            Order(rows[own], f"{fingerprint} {label}", seed, self.streams, config, shuffle)
            for label, own in zip(self.labels, self.shards, strict=True)
        ]
        self.samples = sum(order.samples for order in self.orders)
        self._first_sample = np.cumsum(rows) - rows
        self._slots = global_batch // self.streams
        self.pattern = -(-max(PATTERN, len(self.labels)) // self._slots) * self._slots
        self.draws = _apportion(np.array([weights[label] for label in self.labels]), self.pattern)
        """Draws (sources,) of each source in a pattern block of a stream."""
        self._block = lru_cache(maxsize=_BLOCKS)(self._draw_block)

    def places(self, positions: NDArray[np.int64]) -> Places:
        """The rows at ``positions`` (n,) of the run; ``epoch`` counts those of the source that the row is from."""
        positions = np.asarray(positions, dtype=np.int64)
        batch, in_batch = np.divmod(positions, self.global_batch)
        stream, slot = np.divmod(in_batch, self._slots)
        block, step = np.divmod(batch * self._slots + slot, self.pattern)
        source = np.empty_like(positions)
        draw = np.empty_like(positions)
        for number in np.unique(block):
            here = block == number
            drawn, before = self._block(int(number))
            source[here] = drawn[stream[here], step[here]]
            draw[here] = before[stream[here], step[here]]
        draw += block * self.draws[source]
        found = Places(*(np.empty_like(positions) for _ in range(4)))
        for index, (order, shards) in enumerate(zip(self.orders, self.shards, strict=True)):
            here = source == index
            own = order.places(draw[here] * self.streams + stream[here])
            shard = shards[own.shard]
            found.epoch[here] = own.epoch
            found.shard[here] = shard
            found.row[here] = own.row
            found.sample[here] = self._first_sample[shard] + own.row
        return found

    def _draw_block(self, block: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The source of each step of a pattern block (streams, steps), and its number of earlier draws in the block."""
        evenly = np.concatenate([(np.arange(count) + 0.5) / count for count in self.draws])
        sources = np.repeat(np.arange(len(self.draws), dtype=np.int32), self.draws)
        sources = np.tile(sources[np.argsort(evenly, kind="stable")], (self.streams, 1))
        if self.shuffle:
            cell = np.arange(sources.size)
            key = generator_key(self.fingerprint, self.seed, block, "pattern")
            order = np.argsort(hashes(key, cell).reshape(sources.shape), axis=1, kind="stable")
            sources = np.take_along_axis(sources, order, axis=1)
        before = np.empty_like(sources)
        for index in range(len(self.draws)):
            drawn = sources == index
            before[drawn] = (np.cumsum(drawn, axis=1) - 1)[drawn]
        return sources, before


def _check(weights: Mapping[str, float], shards: Mapping[str, NDArray[np.intp]], known: list[str]) -> None:
    for label, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise UserError(f"data.mixture gives {label} the weight {weight}: make it positive, or leave {label} out")
        if len(shards[label]) == 0:
            raise UserError(
                f"data.mixture names {label}, but the store has no rows of it; its sources are {', '.join(known)}"
            )
    if not weights:
        raise UserError("data.mixture is empty: give at least one source a weight")


def _apportion(weights: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers (n,) that add up to ``total``, by largest remainder, each at least 1."""
    wanted = weights / weights.sum() * total
    given = np.maximum(np.floor(wanted), 1).astype(np.int64)
    while given.sum() != total:
        if given.sum() < total:
            given[np.argmax(wanted - given)] += 1
        else:
            given[np.argmin(np.where(given > 1, wanted - given, np.inf))] -= 1
    return given
