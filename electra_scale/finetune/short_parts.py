"""A batch in parts of rows of like length: on a processor padding costs as much as text, and small products little."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from electra_scale.finetune.encode import IGNORED

Inputs = dict[str, torch.Tensor]

ROWS = 8
"""Rows of a part: fewer have less padding, but the time of a call no longer vanishes beside that of its products."""


def parts(inputs: Mapping[str, torch.Tensor], rows: int = ROWS) -> list[Inputs]:
    """The rows of a collated batch (B, S), longest first, ``rows`` at a time, each part cut after its longest row.

    Without an attention mask padding is read as text is, so the batch stays as it is.
    """
    if "attention_mask" not in inputs:
        return [dict(inputs)]
    mask = inputs["attention_mask"]
    width = mask.shape[1]
    # The last position that is read, whichever side is padded.
    lengths = (mask != 0).mul(torch.arange(1, width + 1, device=mask.device)).amax(1)
    order = lengths.argsort(descending=True, stable=True)
    found = []
    for index in order.split(rows):
        longest = max(1, int(lengths[index[0]]))
        found.append(
            {
                name: value[index, :longest] if value.ndim > 1 and value.shape[1] == width else value[index]
                for name, value in inputs.items()
            }
        )
    return found


def terms(inputs: Mapping[str, torch.Tensor]) -> int:
    """How many terms the mean that is the loss of a batch has: tagged words (B, S), otherwise rows."""
    labels = inputs.get("labels")
    if labels is None or labels.ndim == 1:
        return len(inputs["input_ids"])
    return int((labels != IGNORED).sum())
