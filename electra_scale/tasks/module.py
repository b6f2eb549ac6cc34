"""What one micro-batch contributes: losses of generator, discriminator and sampler, and sums for metrics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from electra_scale.corruption.ahead import Ahead
from electra_scale.corruption.samplers.base import Draw, Masked, Sampler
from electra_scale.corruption.vocabulary.vocabulary_pass import propose, vocabulary_pass
from electra_scale.data.batch import Batch
from electra_scale.data.rows import SpecialTokens
from electra_scale.model.architectures.bert import attention_mask
from electra_scale.model.electra import Electra
from electra_scale.model.embeddings import positions_from_segments
from electra_scale.recipe.objective import ObjectiveConfig
from electra_scale.recipe.phases import Phase
from electra_scale.tasks.sums import generator_statistics, joint_statistics, staleness_statistics


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
        self.mixture = sampler.mixture

    def begin_step(self, joint_step: int) -> None:
        """Before a step: the first ``start_after`` of the joint phase draw from the generator itself."""
        early = joint_step < self.objective.start_after
        self.sampler.mixture = 1.0 if early else self.mixture

    @torch.no_grad()
    def look_ahead(self, batch: Batch) -> Ahead:
        """Draw a micro-batch's replacements before the step that it belongs to."""
        drawn = propose(self.sampler, self.masked_positions(batch))
        return Ahead(drawn.tokens, drawn.log_p, drawn.log_p - drawn.weight.log(), drawn.hardness)

    def forward(
        self,
        batch: Batch,
        counts: GlobalCounts,
        loss_scale: float,
        detailed: bool,
        ahead: Ahead | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss to run backward on, and the micro-batch's sums (monitor/statistics.py), all if ``detailed``.

        With ``ahead`` the replacements are those, weighted for the generator as it is now.
        """
        masked = self.masked_positions(batch)
        sampler = self.sampler if self.phase == "joint" else None
        found = vocabulary_pass(masked, sampler, self.objective.focal_gamma, entropy=detailed)
        sums = {"masked": batch.masked.new_tensor(len(batch.masked)), "generator_loss": found.loss.detach()}
        if found.entropy is not None:
            sums |= generator_statistics(found.log_probability, found.hits, found.entropy)
        total = found.loss / counts.masked
        if found.drawn is not None:
            drawn = found.drawn if ahead is None else ahead.weighted_for(masked, found.drawn)
            if detailed:
                sums |= staleness_statistics(drawn.log_p, None if ahead is None else ahead.log_p)
            loss, joint_sums = self._discriminator_and_sampler(batch, masked, drawn, counts, detailed)
            total, sums = total + loss, sums | joint_sums
        return total * loss_scale, sums

    def _discriminator_and_sampler(
        self, batch: Batch, masked: Masked, drawn: Draw, counts: GlobalCounts, detailed: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weight = self.weight(drawn)
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
            "weighted_loss": (weight.double() * masked_loss.detach().double()).sum(),
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

    def weight(self, drawn: Draw) -> Tensor:
        """The factors (M,) that the loss at drawn tokens gets: importance weights as the recipe uses them."""
        if not self.objective.weighted:
            return torch.ones_like(drawn.weight)
        return (
            drawn.weight if self.objective.weight_clip is None else drawn.weight.clamp(max=self.objective.weight_clip)
        )

    def ordinary(self, batch: Batch) -> Tensor:
        """(B, S) True at tokens that could have been replaced: neither padding nor [CLS] nor [SEP].

        Detection is measured there; the special tokens are always original and would flatter it.
        """
        return (batch.segment >= 0) & (batch.ids != self.special.cls) & (batch.ids != self.special.sep)

    def masked_positions(self, batch: Batch) -> Masked:
        """The generator's pass up to the vocabulary."""
        electra = self.electra
        original = batch.ids.flatten()[batch.masked]
        shown = torch.where(batch.shown_as_mask, self.special.mask, original)
        ids = batch.ids.flatten().index_copy(0, batch.masked, shown).view_as(batch.ids)
        positions = positions_from_segments(batch.segment)
        hidden = electra.generator_hidden(ids, positions, attention_mask(batch.segment))
        hidden = hidden.flatten(0, 1)[batch.masked]
        head = electra.generator_head
        return Masked(head(hidden), electra.word_embeddings, head.bias, hidden, original, batch.uniform)

    def discriminate(self, ids: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits and loss (B, S) in float32 for corrupted ``ids``; a draw equal to the original counts as original."""
        positions = positions_from_segments(batch.segment)
        logits = self.electra.discriminator_logits(ids, positions, attention_mask(batch.segment)).float()
        labels = (ids != batch.ids).to(logits.dtype)
        return logits, binary_cross_entropy_with_logits(logits, labels, reduction="none")

    def parameter_groups(self, weight_decay: float, generator_rate: float = 1.0) -> list[dict[str, object]]:
        """What the phase trains. LayerNorm and biases are not decayed; ``rate`` scales the schedule's learning rate.

        The sampler is not among it, it has an optimizer of its own. Parameters that a phase does not train are left
        out, because DeepSpeed decays whatever it is given.
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
            parts += [(electra.discriminator, 1.0), (electra.discriminator_head, 1.0)]
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for part, rate in parts:
            for parameter in part.parameters():
                decay = weight_decay if parameter.dim() > 1 else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        return [
            {"params": parameters, "weight_decay": decay, "rate": rate} for (rate, decay), parameters in groups.items()
        ]
