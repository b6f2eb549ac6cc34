"""Look at a text through a checkpoint: choose masks, draw replacements by key, score what comes out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from data_pipeline.errors import UserError
from electra_scale.corruption.corruption import Corruption
from electra_scale.corruption.sampler import Distributions
from electra_scale.data.batch import Batch
from electra_scale.data.masking import choose_positions
from electra_scale.data.noise import uniforms
from electra_scale.inside.looked import Candidate, Looked, LookedToken, MaskedPosition, Others
from electra_scale.inside.opened import Opened
from electra_scale.inside.reading import Reading
from electra_scale.model.attention.layout import Layout


class Inside:
    """What a checkpoint does with a text. The same question always has the same answer; any thread may ask.

    Made by :func:`electra_scale.inside.opening.open_run` and ``open_named``.
    """

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.about = opened.about
        # One at a time: two at once would take each other's cores, and twice the memory.
        self._lock = threading.Lock()

    def random_masks(self, text: str, key: int, share: float | None = None) -> list[int]:
        """Positions of a text that a key chooses, ``share`` of its tokens, by default the recipe's, at least one."""
        reading = self.opened.reader.read(text)
        maskable = self._maskable(reading.ids)[None]
        order = uniforms(key, _FIRST, _FIRST, maskable.shape[1], "look mask")
        chosen = choose_positions(maskable, order, self.about.mask_share if share is None else share)
        return [int(position) for position in np.flatnonzero(chosen[0])]

    def look(self, text: str | Sequence[int], masked: Sequence[int] = (), key: int = 0, best: int = 8) -> Looked:
        """Mask positions of a text, draw replacements by ``key``, and score the result.

        Args:
            text: a text, or its token ids with [CLS] and [SEP].
            masked: positions, [CLS] being 0; the generator sees [MASK] at all of them.
            key: decides the draws; each position draws for itself, whatever else is masked.
            best: candidates that are listed at least, by q and by p.

        Raises:
            UserError: a text that is empty, too long or not text; a position that cannot be masked; masks without a
                generator.
        """
        reading = self.opened.reader.read(text) if isinstance(text, str) else Reading(tuple(text), (), ())
        if len(reading.ids) > self.about.longest:
            raise UserError(f"{len(reading.ids)} tokens are too many: the model takes at most {self.about.longest}")
        positions = sorted(set(masked))
        if positions and not self.about.generates:
            raise UserError(f"{self.about.name} has no generator, so nothing can be drawn for a mask; choose no masks")
        maskable = self._maskable(reading.ids)
        for position in positions:
            if not 0 <= position < len(maskable) or not maskable[position]:
                raise UserError(
                    f"position {position} cannot be masked: the text has words at {_range_of(maskable)}; choose those"
                )
        ids = torch.tensor([reading.ids])
        flat = np.array(positions, dtype=np.int64)
        uniform = uniforms(key, _FIRST, _FIRST, len(maskable), "look draw")[0, flat]
        batch = Batch(
            ids=ids,
            segment=torch.zeros_like(ids),
            masked=torch.from_numpy(flat),
            shown_as_mask=torch.ones(len(flat), dtype=torch.bool),
            uniform=torch.from_numpy(uniform),
        )
        return self.look_at(batch, reading, best)

    def look_at(self, batch: Batch, reading: Reading | None = None, best: int = 8) -> Looked:
        """Look at a batch of one row with the masks and numbers that it has; padding at its end is left out."""
        with self._lock, torch.no_grad():
            return self._look_at(batch, reading, best)

    def _look_at(self, batch: Batch, reading: Reading | None, best: int) -> Looked:
        layout = Layout.of(batch.segment)
        shown, positions = batch.ids, list[MaskedPosition]()
        notes = () if reading is None else reading.notes
        if len(batch.masked):
            corruption = self.opened.corrupt(batch, layout)
            shown = corruption.ids
            distributions = self.opened.distributions(corruption)
            if distributions is None:
                notes = (*notes, _NO_DISTRIBUTION)
            positions = self._positions(batch.ids[0], corruption, distributions, best)
        scores = self.opened.scores(shown, layout)[0].tolist() if self.about.detects else None
        ids, drawn = batch.ids[0].tolist(), shown[0].tolist()
        maskable = self._maskable(ids)
        masked = {int(position) for position in batch.masked}
        token = self.opened.reader.token
        tokens = [
            LookedToken(
                token=token(ids[index]),
                id=ids[index],
                source=reading.sources[index] if reading is not None and reading.sources else "",
                maskable=bool(maskable[index]),
                masked=index in masked,
                drawn=token(drawn[index]) if index in masked else None,
                replaced=drawn[index] != ids[index],
                score=None if scores is None else scores[index],
            )
            for index in range(int((batch.segment[0] >= 0).sum()))
        ]
        return Looked(tuple(tokens), tuple(positions), notes)

    def _positions(
        self, original: Tensor, corruption: Corruption, distributions: Iterator[Distributions] | None, best: int
    ) -> list[MaskedPosition]:
        found = []
        indices = corruption.positions.tolist()
        weights = corruption.token_weight.flatten()[corruption.positions].tolist()
        if distributions is None:
            for index, weight in zip(indices, weights, strict=True):
                was, now = (self._bare(int(token)) for token in (original[index], corruption.ids[0, index]))
                found.append(MaskedPosition(index, was, now, weight, (), Others(0, None, None)))
            return found
        for index, weight, (p, q) in zip(indices, weights, _rows(distributions), strict=True):
            own, drawn = int(original[index]), int(corruption.ids[0, index])
            listed = {own, drawn}
            # Without a generator all tokens are as likely, and no few of them are worth a line.
            if p is not None:
                for distribution in (p, q):
                    listed.update(distribution.topk(min(best, len(q))).indices.tolist())
            candidates = {token: self._candidate(token, p, q) for token in listed}
            order = sorted(candidates.values(), key=lambda one: (-(one.q or 0.0), -(one.p or 0.0), one.id))
            left_p = None if p is None else max(0.0, 1 - sum(one.p or 0.0 for one in order))
            others = Others(len(q) - len(order), left_p, max(0.0, 1 - sum(one.q or 0.0 for one in order)))
            found.append(MaskedPosition(index, candidates[own], candidates[drawn], weight, tuple(order), others))
        return found

    def _bare(self, token: int) -> Candidate:
        return Candidate(self.opened.reader.token(token), token, None, None, None)

    def _candidate(self, token: int, p: Tensor | None, q: Tensor) -> Candidate:
        chance = float(q[token])
        if p is None:
            return Candidate(self.opened.reader.token(token), token, None, chance, None)
        own = float(p[token])
        hardness = None if p is q or own == 0 else chance / own
        return Candidate(self.opened.reader.token(token), token, own, chance, hardness)

    def _maskable(self, ids: Sequence[int]) -> np.ndarray:
        return ~np.isin(np.array(ids), self.opened.reader.special.ids())


_FIRST = np.zeros(1, dtype=np.int64)

_NO_DISTRIBUTION = (
    "This corruption draws from no distribution over the vocabulary, so there are draws and scores, and no p and q to "
    "show."
)


def _rows(blocks: Iterator[Distributions]) -> Iterator[tuple[Tensor | None, Tensor]]:
    """p and q (V,) of each position, the same object where they are the same."""
    for block in blocks:
        for number, q in enumerate(block.q):
            p = None if block.p is None else q if block.p is block.q else block.p[number]
            yield p, q


def _range_of(maskable: np.ndarray) -> str:
    places = np.flatnonzero(maskable)
    return f"{places[0]} to {places[-1]}" if len(places) else "none"
