"""Where the documents of a batch lie in its rows: made once a batch, on the host, for all encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from electra_scale.model.attention.chunks import Stretch, stretches_of
from electra_scale.model.attention.varlen import SegmentAttention, segment_attention_of
from electra_scale.model.attention.windows import block_mask


def positions_from_segments(segment: Tensor) -> Tensor:
    """Position ids that restart at 0 wherever the segment changes along a row.

    Args:
        segment: (B,S) integers, which document of the row a position belongs to, -1 for padding.

    Returns:
        (B,S) int64 position ids. A run of padding counts from 0 too, so every id is below S.
    """
    index = torch.arange(segment.shape[1], device=segment.device).expand_as(segment)
    starts = torch.ones_like(segment, dtype=torch.bool)
    starts[:, 1:] = segment[:, 1:] != segment[:, :-1]
    latest_start = torch.where(starts, index, 0).cummax(dim=1).values
    return index - latest_start


def attention_mask(segment: Tensor, window: int | None = None) -> Tensor:
    """(B,1,S,S) bool, True where one position may attend to another: within a segment, and within a window.

    Padding (-1) attends to padding, so that no row of the mask is empty and no softmax gives NaN. Segment ids must be
    unique in their row: two separate stretches with one id would see each other.

    Args:
        segment: (B,S) integers.
        window: positions may be half of it apart, rounded down; any distance if not given.
    """
    mask = (segment[:, :, None] == segment[:, None, :]).unsqueeze(1)
    if window is not None:
        index = torch.arange(segment.shape[1], device=segment.device)
        mask &= (index[:, None] - index).abs() <= window // 2
    return mask


@dataclass(frozen=True)
class Spans:
    """Segments of a batch end to end, as variable-length attention reads them.

    Attributes:
        boundaries: (N+1,) int32, where each of N segments begins among T tokens, and the end.
        longest: tokens of the longest segment.
        taken: (T,) int64, where among the B x S positions of the rows the tokens are; unset, at all of them.
        place: (B x S,) int64, which of the T tokens is at a position, -1 for none; unset where ``taken`` is.
    """

    boundaries: Tensor
    longest: int
    taken: Tensor | None = None
    place: Tensor | None = None

    def to(self, device: torch.device) -> Spans:
        """The same on a device."""
        taken, place = (part if part is None else _moved(part, device) for part in (self.taken, self.place))
        return Spans(_moved(self.boundaries, device), self.longest, taken, place)


@dataclass
class Layout:
    """Positions and segments of a batch, for encoders of any kind.

    Attributes:
        segment: (B,S) integers, which document of the row a position belongs to, -1 for padding.
        positions: (B,S) int64 position ids, which restart with each segment.
        boundaries: (N+1,) int32, where each of the N segments begins among the B x S positions in a row, and the end;
            a run of padding is a segment too.
        longest: positions of the longest segment.
        whole: each row is one segment, so that no mask is needed.
        attention: the device's attention over segments end to end; unset, rows are computed under masks.
        text: the segments without padding, where ``attention`` is set.
    """

    segment: Tensor
    positions: Tensor
    boundaries: Tensor
    longest: int
    whole: bool
    attention: SegmentAttention | None = None
    text: Spans | None = None
    _masks: dict[tuple[torch.dtype, str, int | None], Tensor] = field(default_factory=dict, repr=False)
    _stretches: dict[torch.dtype, list[Stretch]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, segment: Tensor) -> Layout:
        """The layout of rows with these segments (B,S), which must be on the host: a device would have to be waited
        for."""
        positions = positions_from_segments(segment)
        begins = torch.nonzero(positions.flatten() == 0).flatten()
        boundaries = torch.cat([begins, begins.new_tensor([segment.numel()])]).to(torch.int32)
        longest = int(positions.max()) + 1 if positions.numel() else 0
        return cls(segment, positions, boundaries, longest, bool((segment == segment[:, :1]).all()))

    def to(self, device: torch.device) -> Layout:
        """The same on a device, to be computed in the way that suits it; from the host."""
        if device.type == "cpu":
            return self
        found = self.computed_by(segment_attention_of(device))
        return replace(
            found,
            segment=_moved(found.segment, device),
            positions=_moved(found.positions, device),
            boundaries=_moved(found.boundaries, device),
            text=None if found.text is None else found.text.to(device),
            _masks={},
            _stretches={},
        )

    def computed_by(self, attention: SegmentAttention | None) -> Layout:
        """The same for another attention over segments end to end, or for masks if there is none; on the host."""
        return replace(self, attention=attention, text=None if attention is None else self._without_padding())

    def in_rows(self) -> Layout:
        """The same to be computed under masks, for those who look at layers row by row."""
        return replace(self, attention=None, text=None)

    def mask(self, dtype: torch.dtype, window: int | None = None) -> Tensor | None:
        """(B,1,S,S), 0 where :func:`attention_mask` is True and minus infinity elsewhere, to be added to scores.

        It has the precision that attention works in, since attention would make it so again in every call, and is made
        when first asked for. None where no mask is needed, which lets attention take its faster path.
        """
        window = narrower(window, self.longest)
        if self.whole and window is None:
            return None
        return self._added((dtype, "rows", window), lambda: attention_mask(self.segment, window))

    def mask_of_blocks(self, dtype: torch.dtype, window: int) -> Tensor:
        """The same (B n,1,b,k) of :func:`block_mask`."""
        return self._added((dtype, "blocks", window), lambda: block_mask(self.segment, window))

    def stretches(self, dtype: torch.dtype) -> list[Stretch]:
        """What :func:`stretches_of` gives, made when first asked for; on the host."""
        if dtype not in self._stretches:
            self._stretches[dtype] = stretches_of(self.segment, self.boundaries, dtype)
        return self._stretches[dtype]

    def _added(self, which: tuple[torch.dtype, str, int | None], make: Callable[[], Tensor]) -> Tensor:
        found = self._masks.get(which)
        if found is None:
            allowed = make()
            found = torch.zeros(allowed.shape, dtype=which[0], device=allowed.device)
            self._masks[which] = found.masked_fill_(allowed.logical_not_(), -torch.inf)
        return found

    def _without_padding(self) -> Spans:
        real = self.segment.flatten() >= 0
        # Rows of padding alone are computed as they are: there would be nothing to compute.
        if bool(real.all()) or not bool(real.any()):
            return Spans(self.boundaries, self.longest)
        place = real.cumsum(0) - 1
        taken = torch.nonzero(real).flatten()
        positions = self.positions.flatten()[taken]
        begins = torch.nonzero(positions == 0).flatten()
        boundaries = torch.cat([begins, begins.new_tensor([len(taken)])]).to(torch.int32)
        return Spans(boundaries, int(positions.max()) + 1, taken, place.masked_fill_(~real, -1))


def narrower(window: int | None, longest: int) -> int | None:
    """The window, None where no segment is longer than it reaches."""
    return None if window is None or longest - 1 <= window // 2 else window


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)
