"""What one micro-batch contributes: losses of generator, discriminator and sampler, and sums for metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from electra_scale.data.loader import Batch
from electra_scale.data.rows import SpecialTokens
from electra_scale.model import Electra, attention_mask, positions_from_segments
from electra_scale.monitor.statistics import generator_statistics, joint_statistics
from electra_scale.replacement import Masked, ObjectiveConfig, Sampler, focal_loss

Phase = Literal["generator_warmup", "joint"]


@dataclass
class GlobalCounts:
    """Numbers that the loss sums are divided by: masked and non-padding tokens of the global batch, scalars."""

    masked: Tensor
    tokens: Tensor


class PretrainModule(nn.Module):
    """Generator, discriminator and sampler as the engine sees them.

    Losses are sums over the micro-batch divided by counts of the *global* batch, so that gradients do not depend on
    how it is split; ``loss_scale`` undoes the averaging over ranks and micro-batches that the engine applies.
    """

    def __init__(
        self, electra: Electra, sampler: Sampler, objective: ObjectiveConfig, special: SpecialTokens, phase: Phase
    ) -> None:
        super().__init__()
        self.electra = electra
        self.sampler = sampler
        self.objective = objective
        self.special = special
        self.phase = phase

    def forward(
        self, batch: Batch, counts: GlobalCounts, loss_scale: float, detailed: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss to run backward on, and the micro-batch's sums (monitor/statistics.py), all if ``detailed``."""
        masked = self.masked_positions(batch)
        log_p = torch.log_softmax(masked.scores, -1)
        correct = log_p.gather(1, masked.original[:, None])[:, 0]
        generator_loss = focal_loss(correct, self.objective.focal_gamma).sum()
        sums = {"masked": batch.masked.new_tensor(len(batch.masked)), "generator_loss": generator_loss.detach()}
        if detailed:
            sums |= generator_statistics(log_p, masked.original)
        total = generator_loss / counts.masked
        if self.phase == "joint":
            loss, joint_sums = self._discriminator_and_sampler(batch, masked, counts, detailed)
            total, sums = total + loss, sums | joint_sums
        return total * loss_scale, sums

    def _discriminator_and_sampler(
        self, batch: Batch, masked: Masked, counts: GlobalCounts, detailed: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        drawn = self.sampler.propose(masked)
        weight = drawn.weight if self.objective.weighted else torch.ones_like(drawn.weight)
        ids = batch.ids.flatten().index_copy(0, batch.masked, drawn.tokens).view_as(batch.ids)
        logits, token_loss = self.discriminate(ids, batch)
        masked_loss = token_loss.flatten()[batch.masked]
        # Weights are constants of the gradient: this loss teaches the discriminator and the shared embeddings only.
        real = batch.segment >= 0
        token_weight = real.to(token_loss.dtype).flatten().index_copy(0, batch.masked, weight).view_as(token_loss)
        discriminator_loss = (token_loss * token_weight).sum()
        total = self.objective.discriminator_weight * discriminator_loss / counts.tokens
        sampler_loss = torch.zeros_like(discriminator_loss)
        if self.sampler.learns:
            sampler_loss = self.sampler.loss(masked, drawn, masked_loss.detach()).sum()
            total = total + self.objective.sampler_weight * sampler_loss / counts.masked
        sums = {
            "tokens": real.sum(),
            "discriminator_loss": discriminator_loss.detach(),
            "sampler_loss": sampler_loss.detach(),
        }
        if detailed:
            sums |= joint_statistics(
                masked_loss=masked_loss,
                weight=weight,
                hardness=drawn.hardness,
                identical=drawn.tokens == masked.original,
                logits=logits,
                replaced=ids != batch.ids,
                counted=self.ordinary(batch),
            )
        return total, sums

    def ordinary(self, batch: Batch) -> Tensor:
        """(B, S) True at tokens that could have been replaced: neither padding nor [CLS] nor [SEP].

        Detection is measured there; the special tokens are always original and would flatter it.
        """
        return (batch.segment >= 0) & (batch.ids != self.special.cls) & (batch.ids != self.special.sep)

    def masked_positions(self, batch: Batch) -> Masked:
        """The generator's pass: scores (M, V) in float32 and what else a sampler may look at."""
        electra = self.electra
        original = batch.ids.flatten()[batch.masked]
        shown = torch.where(batch.shown_as_mask, self.special.mask, original)
        ids = batch.ids.flatten().index_copy(0, batch.masked, shown).view_as(batch.ids)
        positions = positions_from_segments(batch.segment)
        hidden = electra.generator_hidden(ids, positions, attention_mask(batch.segment))
        hidden = hidden.flatten(0, 1)[batch.masked]
        features = electra.generator_head(hidden)
        scores = electra.generator_head.scores(features, electra.word_embeddings).float()
        return Masked(scores, hidden, electra.word_embeddings, original, batch.uniform)

    def discriminate(self, ids: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits and loss (B, S) in float32 for corrupted ``ids``; a draw equal to the original counts as original."""
        positions = positions_from_segments(batch.segment)
        logits = self.electra.discriminator_logits(ids, positions, attention_mask(batch.segment)).float()
        labels = (ids != batch.ids).to(logits.dtype)
        return logits, binary_cross_entropy_with_logits(logits, labels, reduction="none")

    def parameter_groups(
        self, weight_decay: float, head_rate: float = 1.0, generator_rate: float = 1.0
    ) -> list[dict[str, object]]:
        """What the phase trains. LayerNorm and biases are not decayed; ``rate`` scales the schedule's learning rate.

        Parameters that a phase does not train are left out, because DeepSpeed decays whatever it is given.
        """
        electra = self.electra
        joint = self.phase == "joint"
        pace = generator_rate if joint else 1.0
        parts: list[tuple[nn.Module, float]] = [
            (electra.embeddings, 1.0),
            (electra.generator, pace),
            (electra.generator_head, pace),
        ]
        if joint:
            parts += [(electra.discriminator, 1.0), (electra.discriminator_head, 1.0), (self.sampler, head_rate)]
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for part, rate in parts:
            for parameter in part.parameters():
                decay = weight_decay if parameter.dim() > 1 else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        return [
            {"params": parameters, "weight_decay": decay, "rate": rate} for (rate, decay), parameters in groups.items()
        ]
