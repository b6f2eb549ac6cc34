"""Attention inside the documents of packed rows: the one place where positions see each other."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from electra_scale.model.attention import dot_product
from electra_scale.model.attention.chunks import attend_in_chunks
from electra_scale.model.attention.layout import Layout, Spans, narrower
from electra_scale.model.attention.varlen import SegmentAttention
from electra_scale.model.attention.windows import attend_in_blocks, keys_of, pays
from electra_scale.recipe.model import ModelConfig


class Tokens(Protocol):
    """The tokens of a batch in the form in which an encoder's layers work on them: (B,S) or (T), in short (...)."""

    positions: Tensor
    """(...) int64 position ids."""

    def enter(self, embedded: Tensor) -> Tensor:
        """States (...,E) of embedded tokens (B,S,E)."""
        ...

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None, dropout: float) -> Tensor:
        """Context (...,H) of queries, keys and values (...,heads,D), inside segments and, if given, in ``window``."""
        ...

    def choose(self, states: Tensor, only: Tensor) -> Tensor:
        """(M,H) of states (...,H) at the places ``only`` (M,) among the B x S positions, none of them padding."""
        ...

    def leave(self, states: Tensor) -> Tensor:
        """(B,S,H) of states (...,H)."""
        ...


class Rows:
    """Tokens (B,S) in their rows, padding among them; a mask keeps attention inside segments.

    A window is computed block by block where that costs less, and long rows by chunks of queries where that is quicker,
    without a mask of the whole row.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.positions = layout.positions

    def enter(self, embedded: Tensor) -> Tensor:
        return embedded

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None, dropout: float) -> Tensor:
        window = narrower(window, self._layout.longest)
        if window is not None and pays(query.shape[1], window):
            precision = dot_product.precision_of_attention(query, keys_of(window), dropout)
            mask = self._layout.mask_of_blocks(precision, window)
            return attend_in_blocks(query, key, value, mask, window, dropout).flatten(2)
        if window is None and dot_product.pays_in_chunks(query, key.shape[1]):
            return attend_in_chunks(query, key, value, self._layout.stretches(query.dtype), dropout).flatten(2)
        added = self._layout.mask(dot_product.precision_of_attention(query, key.shape[1], dropout), window)
        context = dot_product.attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), added, dropout)
        return context.transpose(1, 2).flatten(2)

    def choose(self, states: Tensor, only: Tensor) -> Tensor:
        return states.flatten(0, 1).index_select(0, only)

    def leave(self, states: Tensor) -> Tensor:
        return states


class EndToEnd:
    """Tokens (T) of all segments end to end, for a device's own attention; states of padding are 0 in the end.

    All sizes that the device has to be given are integers of the host already, so nothing waits for it.
    """

    def __init__(self, layout: Layout, attention: SegmentAttention, spans: Spans) -> None:
        self._shape = layout.segment.shape
        self._function = attention.function
        self._spans = spans
        self.positions = self.enter(layout.positions)

    def enter(self, embedded: Tensor) -> Tensor:
        flat, taken = embedded.flatten(0, 1), self._spans.taken
        return flat if taken is None else flat.index_select(0, taken)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None, dropout: float) -> Tensor:
        boundaries, longest = self._spans.boundaries, self._spans.longest
        window = narrower(window, longest)
        reach = -1 if window is None else window // 2
        context: Tensor = self._function(
            query, key, value, boundaries, boundaries, longest, longest, window_size=(reach, reach)
        )
        return context.flatten(1)

    def choose(self, states: Tensor, only: Tensor) -> Tensor:
        place = self._spans.place
        return states.index_select(0, only if place is None else place.index_select(0, only))

    def leave(self, states: Tensor) -> Tensor:
        taken = self._spans.taken
        if taken is not None:
            whole = states.new_zeros(self._shape.numel(), states.shape[-1])
            states = whole.index_copy(0, taken, states)
        return states.unflatten(0, self._shape)


def tokens_of(layout: Layout, dtype: torch.dtype, head_width: int, config: ModelConfig, training: bool) -> Tokens:
    """The form for attention in this precision with heads of this width D: end to end where the layout's device can.

    Padding is left out of it, except where layers are compiled, since their shapes must not change with a batch.
    """
    attention, text = layout.attention, layout.text
    dropout = config.attention_dropout if training else 0.0
    if attention is None or text is None or not attention.limits.allow(dtype, head_width, dropout):
        return Rows(layout)
    return EndToEnd(layout, attention, Spans(layout.boundaries, layout.longest) if config.compile else text)
