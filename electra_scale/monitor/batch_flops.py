"""The floating-point operations that training on a batch takes, which speed/mfu is a share of."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from electra_scale.data.batch import Batch
from electra_scale.model.cost import training_flops
from electra_scale.recipe.model import ModelConfig
from electra_scale.recipe.optimizer import PARTS


class BatchFlops:
    """Counts what the networks need for the text of a batch, by the formulas of :mod:`electra_scale.model.cost`.

    A token attends to the tokens of its own document in the row, not to the row: attention over a document of n tokens
    costs in proportion to n^2. Padding costs nothing, and what runs at masked positions is counted at those that the
    batch has. So work that a device does beyond that, such as products under a mask, lowers its share of the peak.

    Args:
        config: the model.
        length: positions of a row, S.
        joint, with_generator, trained: as :func:`electra_scale.model.cost.training_flops` has them.
    """

    def __init__(
        self,
        config: ModelConfig,
        length: int,
        joint: bool,
        with_generator: bool = True,
        trained: Collection[str] = PARTS,
    ) -> None:
        def per_token(attended: int, masked_share: float) -> float:
            return training_flops(config, attended, masked_share, joint, with_generator, trained)

        # A document's FLOPs by its length, without masked positions, whose cost does not depend on it.
        self._of_document = np.array([n * per_token(n, 0.0) for n in range(length + 1)])
        self._of_masked = per_token(length, 1.0) - per_token(length, 0.0)

    def __call__(self, batch: Batch) -> float:
        """FLOPs of forward and backward for a batch that is on the host."""
        return float(self._of_document[document_lengths(batch.segment)].sum() + len(batch.masked) * self._of_masked)


def document_lengths(segment: Tensor) -> NDArray[np.int64]:
    """(N,) lengths of the documents in rows with these segments (B,S), on the host; padding (-1) is none of them."""
    rows = segment.numpy()
    begins = np.ones(rows.shape, dtype=bool)
    begins[:, 1:] = rows[:, 1:] != rows[:, :-1]
    at = np.flatnonzero(begins)
    return np.diff(at, append=rows.size)[rows.ravel()[at] >= 0]
