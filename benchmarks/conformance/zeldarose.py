"""zeldarose: ``training_step`` of its ``RTDTrainingModel`` around given networks."""

from __future__ import annotations

from typing import Any

import torch
from loguru import logger
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import MaskedLMOutput, TokenClassifierOutput
from zeldarose.datasets.transform import TextBatch
from zeldarose.tasks.rtd import RTDOutput, RTDTaskConfig, RTDTrainingModel

from benchmarks.conformance.given import Given, gradient, largest, noted, real, seeded
from tests.conformance.trainer import IGNORED, MASK, MASK_SHARE, SPECIAL, VOCABULARY, Step, Text

# It tells its settings each time that it is made.
logger.disable("zeldarose")


class _Generator(Given):
    """Loss and answer of transformers' masked language models."""

    def forward(self, input_ids: Tensor, labels: Tensor, **more: Any) -> MaskedLMOutput:
        self.labels = labels.clone()
        loss = cross_entropy(self.scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return MaskedLMOutput(loss=loss, logits=self.scores)


class _Discriminator(Given):
    """Loss and answer of transformers' token classification with two classes, which the trainer asks for."""

    def forward(self, input_ids: Tensor, labels: Tensor, **more: Any) -> TokenClassifierOutput:
        self.read = input_ids.clone()
        logits = torch.stack([torch.zeros_like(self.scores), self.scores], -1)
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return TokenClassifierOutput(loss=loss, logits=logits)


class ZeldaRose:
    """The losses come apart in what its ``forward`` gives to its ``training_step``."""

    def step(self, text: Text, seed: int) -> Step:
        generator, discriminator = _Generator(text.generator_scores), _Discriminator(text.discriminator_scores)
        trainer = RTDTrainingModel(
            discriminator,
            generator,
            mask_token_index=MASK,
            vocabulary_size=VOCABULARY,
            task_config=RTDTaskConfig(mask_ratio=MASK_SHARE),
        )
        kept = torch.isin(text.ids, torch.tensor(SPECIAL))
        batch = TextBatch(text.ids.clone(), real(text), kept, torch.zeros_like(text.ids))
        outputs: list[RTDOutput] = []
        # Its masking is compiled when first called; what it computes is the same without.
        with seeded(seed), noted(trainer, "forward", outputs), torch.compiler.set_stance("force_eager"):
            trainer.training_step(batch, 0)
        result = outputs[0]
        generator_loss, judged = result.generator_output.loss, result.discriminator_output.loss
        return Step(
            masked=generator.labels != IGNORED,
            drawn=result.generator_predictions,
            read=discriminator.read,
            labels=result.rtd_labels,
            generator_scores=text.generator_scores,
            discriminator_scores=text.discriminator_scores,
            generator_loss=float(generator_loss.detach()),
            discriminator_loss=float(judged.detach()),
            generator_gradient=gradient(generator_loss, generator.scores),
            discriminator_gradient=gradient(judged, discriminator.scores),
            leak=largest(judged, list(generator.parameters())),
        )
