"""simpletransformers: its masking and its ``ElectraForLanguageModelingModel``, called as its training loop does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from simpletransformers.custom_models.models import ElectraForLanguageModelingModel
from simpletransformers.language_modeling.language_modeling_utils import mask_tokens
from torch import Tensor
from transformers import ElectraConfig

from benchmarks.conformance.given import adds, gradient, largest, real, seeded
from benchmarks.conformance.words import tokenizer
from tests.conformance.trainer import IGNORED, MASK_SHARE, PAD, VOCABULARY, Step, Text


class SimpleTransformers:
    """Small networks of transformers' ELECTRA, whose heads' scores the text's are added to.

    Its loop passes an attention mask only with ``use_hf_datasets``, which is off by default.
    """

    def __init__(self, attention_mask: bool) -> None:
        self.attention_mask = attention_mask
        self.settings = SimpleNamespace(model_type="electra", mlm_probability=MASK_SHARE)

    def step(self, text: Text, seed: int) -> Step:
        model = small_model()
        scores = adds(model.generator_model.generator_lm_head, text.generator_scores)
        judged = adds(model.discriminator_model.discriminator_predictions, text.discriminator_scores)
        read: list[Tensor] = []
        model.discriminator_model.electra.embeddings.register_forward_pre_hook(
            lambda _, arguments, named: read.append(named["input_ids"].clone()), with_kwargs=True
        )
        with seeded(seed):
            inputs, labels = mask_tokens(text.ids.clone(), tokenizer(), self.settings)
            mask = real(text).long() if self.attention_mask else None
            generator_loss, loss, _, _, told = model(inputs, labels, attention_mask=mask, token_type_ids=None)
        shared = {id(one) for one in model.discriminator_model.parameters()}
        own = [one for one in model.generator_model.parameters() if id(one) not in shared]
        return Step(
            masked=labels != IGNORED,
            drawn=None,
            read=read[0],
            labels=told,
            generator_scores=scores[0].detach(),
            discriminator_scores=judged[0].detach(),
            generator_loss=float(generator_loss.detach()),
            discriminator_loss=float(loss.detach()),
            generator_gradient=gradient(generator_loss, scores[0]),
            discriminator_gradient=gradient(loss, judged[0]),
            leak=largest(loss, [scores[0], *own]),
        )


def small_model() -> ElectraForLanguageModelingModel:
    """Its model of two small networks, the same each time."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "embedding_size": 16,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": PAD,
    }
    with seeded(1):
        generator, discriminator = ElectraConfig(**sizes), ElectraConfig(**sizes)
        return ElectraForLanguageModelingModel(
            discriminator, generator_config=generator, discriminator_config=discriminator
        )
