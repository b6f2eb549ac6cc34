"""A projection folded into the table that it reads, and taken out of it again."""

from __future__ import annotations

import torch
from torch import Tensor


def split(folded: Tensor, width: int) -> tuple[Tensor, Tensor, float]:
    """A table (V,E) and a matrix (E,H) whose product is as near to ``folded`` (V,H) as E columns allow, E below H.

    By the singular value decomposition (Eckart and Young 1936). Returns also the share of ``folded`` that is lost.
    """
    exact = folded.double()
    _, vectors = torch.linalg.eigh(exact.T @ exact)
    matrix = vectors[:, -width:].T.contiguous()
    table = exact @ matrix.T
    return table.float(), matrix.float(), _lost(exact, table @ matrix)


def unfold(table: Tensor, folded: Tensor) -> tuple[Tensor, float]:
    """The matrix (E,H) that turns ``table`` (V,E) into ``folded`` (V,H), by least squares, and the share that is lost.

    A table with fewer tokens than columns, or with columns that follow from others, has the smallest such matrix.
    """
    exact = table.double()
    matrix = torch.linalg.lstsq(exact, folded.double(), driver="gelsd").solution
    return matrix.float(), _lost(folded.double(), exact @ matrix)


def _lost(wanted: Tensor, given: Tensor) -> float:
    """The norm of the difference, as a share of what is wanted."""
    return float((wanted - given).norm() / wanted.norm().clamp(min=torch.finfo(torch.float64).tiny))
