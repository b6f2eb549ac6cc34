"""Replaced token detection: which tokens are not those of the text (Clark et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from electra_scale.corruption.corruption import Corruption, LossTerm, Statistic, Sums, statistics_of
from electra_scale.data.batch import Batch
from electra_scale.model.architectures.architecture import Hidden
from electra_scale.model.electra import Electra
from electra_scale.recipe.task import ReplacedTokensSettings
from electra_scale.tasks.detection import (
    LISTS,
    MAXIMA,
    auc,
    detection_metrics,
    detection_statistics,
    draw_metrics,
    draw_statistics,
    weighted_loss_statistics,
)
from electra_scale.tasks.task import Task, TaskTerms


class ReplacedTokens(Task):
    """Binary cross-entropy of each token's logit, weighted as the corruption says."""

    settings: ReplacedTokensSettings

    def terms(
        self, networks: Electra, hidden: Hidden, corruption: Corruption, batch: Batch, detailed: bool = False
    ) -> TaskTerms:
        logits, token_loss = self.detect(networks, hidden, corruption)
        loss = (token_loss * corruption.token_weight).sum()
        weight = corruption.token_weight.flatten()[corruption.positions]
        masked_loss = token_loss.flatten()[corruption.positions]
        statistics = weighted_loss_statistics(masked_loss.detach(), weight)
        if detailed:
            identical = ~corruption.labels.flatten()[corruption.positions]
            statistics |= draw_statistics(masked_loss, weight, identical)
            statistics |= detection_statistics(logits, corruption.labels, self.ordinary(batch))
        return TaskTerms(
            [LossTerm("discriminator", loss, "tokens", self.settings.discriminator_weight)],
            token_loss.detach(),
            statistics_of(statistics, MAXIMA, LISTS),
        )

    def detect(self, networks: Electra, hidden: Hidden, corruption: Corruption) -> tuple[Tensor, Tensor]:
        """Logits and loss (B,S), at least float32; a draw equal to the original counts as original."""
        logits: Tensor = networks.discriminator_head(hidden.last)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        labels = corruption.labels.to(logits.dtype)
        return logits, binary_cross_entropy_with_logits(logits, labels, reduction="none")

    def ordinary(self, batch: Batch) -> Tensor:
        """(B,S) True at tokens that could have been replaced: neither padding nor [CLS] nor [SEP].

        Detection is measured there; the special tokens are always original and would flatter it.
        """
        return (batch.segment >= 0) & (batch.ids != self.special.cls) & (batch.ids != self.special.sep)

    def heldout(self, networks: Electra, hidden: Hidden, corruption: Corruption, batch: Batch) -> list[Statistic]:
        logits, loss = self.detect(networks, hidden, corruption)
        found = detection_statistics(logits, corruption.labels, self.ordinary(batch))
        return statistics_of({"discriminator_loss": (loss * (batch.segment >= 0)).sum()} | found, lists=LISTS)

    def metrics(self, sums: Sums) -> dict[str, float]:
        return draw_metrics(sums) | detection_metrics(sums)

    def heldout_metrics(self, sums: Sums) -> dict[str, float]:
        return {
            "eval/discriminator_loss": float(sums["discriminator_loss"][0]) / float(sums["tokens"][0]),
            "eval/auc": auc(sums["logits_replaced"], sums["logits_original"]),
        }
