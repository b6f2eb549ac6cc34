"""Where the documents of a batch lie in its rows: made once a batch, on the host, for all encoders."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


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


@dataclass
class Layout:
    """Positions and segments of a batch, for encoders of any kind.

    Attributes:
        segment: (B,S) integers, which document of the row a position belongs to, -1 for padding.
        positions: (B,S) int64 position ids, which restart with each segment.
        boundaries: (N+1,) int32, where each of the N segments begins among the B x S positions in a row, and the end;
            a run of padding is a segment too. What variable-length attention reads.
        longest: positions of the longest segment.
        whole: each row is one segment, so that no mask is needed.
    """

    segment: Tensor
    positions: Tensor
    boundaries: Tensor
    longest: int
    whole: bool
    _masks: dict[int | None, Tensor] = field(default_factory=dict, repr=False)

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
        """The same on a device."""
        if device.type == "cpu":
            return self
        return Layout(
            self.segment.to(device, non_blocking=True),
            self.positions.to(device, non_blocking=True),
            self.boundaries.to(device, non_blocking=True),
            self.longest,
            self.whole,
        )

    def mask(self, window: int | None = None) -> Tensor | None:
        """(B,1,S,S) bool from :func:`attention_mask`, made when first asked for; None where no mask is needed, which
        lets attention take its faster path. A window that no segment is longer than is none."""
        if window is not None and self.longest - 1 <= window // 2:
            window = None
        if self.whole and window is None:
            return None
        if window not in self._masks:
            self._masks[window] = attention_mask(self.segment, window)
        return self._masks[window]
