"""Masked language modelling alone: one encoder, which learns from the corruption's own loss, and no discriminator."""

from __future__ import annotations

from electra_scale.corruption.corruption import Corruption
from electra_scale.data.batch import Batch
from electra_scale.model.architectures.architecture import Hidden
from electra_scale.model.electra import Electra
from electra_scale.tasks.task import Task, TaskTerms


class MaskedTokens(Task):
    """The only phase of such a run trains the network that predicts masked tokens, so nothing is asked of this."""

    def terms(
        self, networks: Electra, hidden: Hidden, corruption: Corruption, batch: Batch, detailed: bool = False
    ) -> TaskTerms:
        raise AssertionError("masked language modelling has no joint phase")
