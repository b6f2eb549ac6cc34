"""electra-pytorch: its ``Electra`` around given networks, called as its page says."""

from __future__ import annotations

from typing import Any

import electra_pytorch.electra_pytorch as theirs
import torch
from torch import Tensor

from benchmarks.conformance.given import Given, gradient, largest, noted, seeded
from tests.conformance.trainer import CLS, MASK, MASK_SHARE, PAD, SEP, VOCABULARY, Step, Text


class _Table(Given):
    def forward(self, ids: Tensor, **more: Any) -> Tensor:
        self.read = ids.clone()
        return self.scores


class ElectraPytorch:
    """Losses come apart in its result; masks and draws are what two of its functions return."""

    def step(self, text: Text, seed: int) -> Step:
        generator, discriminator = _Table(text.generator_scores), _Table(text.discriminator_scores)
        trainer = theirs.Electra(
            generator,
            discriminator,
            num_tokens=VOCABULARY,
            mask_prob=MASK_SHARE,
            mask_token_id=MASK,
            pad_token_id=PAD,
            mask_ignore_token_ids=[CLS, SEP],
        )
        masks: list[Tensor] = []
        draws: list[Tensor] = []
        with seeded(seed), noted(theirs, "get_mask_subset_with_prob", masks), noted(theirs, "gumbel_sample", draws):
            result = trainer(text.ids)
        masked = masks[0]
        return Step(
            masked=masked,
            drawn=torch.zeros_like(text.ids).masked_scatter(masked, draws[0]),
            read=discriminator.read,
            labels=result.disc_labels.long(),
            generator_scores=text.generator_scores,
            discriminator_scores=text.discriminator_scores,
            generator_loss=float(result.mlm_loss.detach()),
            discriminator_loss=float(result.disc_loss.detach()),
            generator_gradient=gradient(result.mlm_loss, generator.scores),
            discriminator_gradient=gradient(result.disc_loss, discriminator.scores),
            leak=largest(result.disc_loss, list(generator.parameters())),
        )
