"""Attention inside documents by chunks of queries, so that scores stay in a core's cache and none of them is kept.

Each chunk's scores against all keys of its document are formed, used and given up; the backward pass forms them again
and keeps sums over chunks in single precision. So memory is linear in the length of a document, weights that are
dropped included, and no products between documents are formed beyond those of short ones that share a chunk. What is
computed is the written-out formula of :mod:`electra_scale.model.attention.dot_product`, in its precision.

With P the weights, O the context and dO its gradient, gradients are dV = P^T dO, dS = P * (dP - rowsum(P * dP)) for
dP = dO V^T, dQ = dS K and dK = dS^T Q (Dao et al. 2022, appendix B). A chunk has whole rows of P, so that it needs
neither O nor the logarithms of the softmax's sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from electra_scale.model.dropout import dropped, new_seed

_SCORES = 1 << 20
"""Of a chunk where its bounds allow: 2 MiB in 16 bits."""

_FEWEST, _MOST = 256, 512
"""Queries of a chunk of a longer document: with fewer, sums over chunks take a tenth of the time; with more, scores
leave the cache sooner."""

_TOGETHER = 128
"""Positions up to which short documents share a chunk, whose calls would take longer than their products."""


@dataclass(frozen=True)
class Stretch:
    """Positions of a row that attend to each other and to nothing else: a document, or several short ones.

    Attributes:
        row: of the batch.
        first: position of the row, and ``end`` the one after the last.
        mask: (n,n), 0 inside documents and minus infinity between them, to be added to scores; None for one document.
    """

    row: int
    first: int
    end: int
    mask: Tensor | None = None


def stretches_of(segment: Tensor, boundaries: Tensor, dtype: torch.dtype) -> list[Stretch]:
    """All stretches of rows, on the host; padding is in none.

    Args:
        segment: (B,S) integers, which document of the row a position belongs to, -1 for padding.
        boundaries: (N+1,) where each segment begins among the B x S positions, and the end.
        dtype: of masks.
    """
    length, flat = segment.shape[1], segment.flatten()
    begins, real = boundaries.tolist(), (flat[boundaries[:-1].long()] >= 0).tolist()
    spans: list[tuple[int, int, bool]] = []
    for first, end, is_text in zip(begins, begins[1:], real, strict=False):
        if not is_text:
            continue
        start, before, _ = spans[-1] if spans else (0, -1, False)
        if before == first and first % length and end - start <= _TOGETHER:
            spans[-1] = (start, end, True)
        else:
            spans.append((first, end, False))
    return [
        Stretch(*divmod(first, length), (end - 1) % length + 1, _between(flat[first:end], dtype) if several else None)
        for first, end, several in spans
    ]


def _between(segment: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(2 * segment.shape, dtype=dtype).masked_fill_(segment[:, None] != segment, -torch.inf)


def attend_in_chunks(
    query: Tensor, key: Tensor, value: Tensor, stretches: Sequence[Stretch], share: float = 0.0
) -> Tensor:
    """Context (B,S,heads,D) of queries, keys and values (B,S,heads,D), in their precision; 0 outside stretches.

    Args:
        stretches: what :func:`stretches_of` gave, with masks of this precision.
        share: of the weights that are dropped, in [0, 1). Which ones is made again from a seed in the backward pass.
    """
    context: Tensor = _Chunks.apply(query, key, value, stretches, share, new_seed() if share > 0 else 0)
    return context


class _Chunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, stretches: Sequence[Stretch], share: float, seed: int
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.stretches, ctx.share, ctx.seed = stretches, share, seed
        context = torch.zeros(query.shape, dtype=query.dtype)
        for group in _groups(stretches, query.shape[2]):
            keys, values = group.of(key), group.of(value)
            queries, found = group.scaled(query), torch.empty_like(keys)
            for number, part in group.chunks():
                weights = group.weights(queries[:, part], keys)
                if share > 0:
                    weights = dropped(weights, share, seed + number)
                found[:, part] = torch.bmm(weights, values)
            group.put(found, context)
        return context

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        share, scale = ctx.share, query.shape[-1] ** -0.5
        of_query, of_key, of_value = (torch.zeros(query.shape, dtype=query.dtype) for _ in range(3))
        for group in _groups(ctx.stretches, query.shape[2]):
            queries, keys, values, by = group.scaled(query), group.of(key), group.of(value), group.of(gradient)
            for_queries = torch.empty_like(keys)
            wide = torch.promote_types(keys.dtype, torch.float32)
            for_keys, for_values = (torch.zeros(keys.shape, dtype=wide) for _ in range(2))
            for number, part in group.chunks():
                used = weights = group.weights(queries[:, part], keys)
                of_weights = torch.bmm(by[:, part], values.mT)
                if share > 0:
                    used, of_weights = (dropped(each, share, ctx.seed + number) for each in (weights, of_weights))
                for_values += torch.bmm(used.mT, by[:, part])
                of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
                torch.mul(torch.bmm(of_scores, keys), scale, out=for_queries[:, part])
                for_keys += torch.bmm(of_scores.mT, queries[:, part])
            group.put(for_queries, of_query)
            group.put(for_keys, of_key)
            group.put(for_values, of_value)
        return of_query, of_key, of_value, None, None, None


@dataclass(frozen=True)
class _Group:
    """Heads of a stretch that are computed together, queries of each chunk, and the first chunk's number among all."""

    stretch: Stretch
    heads: slice
    queries: int
    first: int

    def of(self, states: Tensor) -> Tensor:
        """(heads,n,D) of states (B,S,heads,D)."""
        stretch = self.stretch
        return states[stretch.row, stretch.first : stretch.end, self.heads].transpose(0, 1).contiguous()

    def scaled(self, query: Tensor) -> Tensor:
        return self.of(query).mul(query.shape[-1] ** -0.5)

    def put(self, found: Tensor, states: Tensor) -> None:
        """Write (heads,n,D) into states (B,S,heads,D)."""
        stretch = self.stretch
        states[stretch.row, stretch.first : stretch.end, self.heads] = found.transpose(0, 1)

    def chunks(self) -> Iterator[tuple[int, slice]]:
        """Number and queries of each."""
        length = self.stretch.end - self.stretch.first
        for number, start in enumerate(range(0, length, self.queries), self.first):
            yield number, slice(start, min(start + self.queries, length))

    def weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(heads,c,n) of queries (heads,c,D), scaled, and keys (heads,n,D)."""
        scores = torch.bmm(queries, keys.mT)
        if self.stretch.mask is not None:
            # Documents that share a stretch fit in one chunk.
            scores += self.stretch.mask
        # In 16 bits too, torch takes exponentials and their sum in single precision.
        return scores.softmax(-1)


def _groups(stretches: Sequence[Stretch], heads: int) -> Iterator[_Group]:
    number = 0
    for stretch in stretches:
        length = stretch.end - stretch.first
        queries = min(max(_SCORES // length, _FEWEST), _MOST, length)
        together = max(1, _SCORES // (queries * length))
        for head in range(0, heads, together):
            yield _Group(stretch, slice(head, min(head + together, heads)), queries, number)
            number += -(-length // queries)
