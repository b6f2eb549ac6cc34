"""rtd-gdes: its ``train_one_epoch`` over one batch, on a small network of its ``DebertaV3GDES``."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from types import SimpleNamespace
from typing import Any

import rtd_gdes.gdes.trainer as theirs
import torch
from rtd_gdes.gdes.model import DebertaV3GDES
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from transformers import BatchEncoding, DataCollatorForLanguageModeling, DebertaV2Config, DebertaV2ForMaskedLM
from transformers.utils.logging import disable_progress_bar

from benchmarks.conformance.given import adds, gradient, largest, noted, real, seeded
from benchmarks.conformance.words import tokenizer
from tests.conformance.trainer import IGNORED, MASK, PAD, VOCABULARY, Step, Text

# Its bar would run once for each step that is looked at.
theirs.tqdm = functools.partial(theirs.tqdm, disable=True)


class _Watching(GradScaler):
    """Stops its update: all that is to be seen is there when the loss comes to be scaled."""

    def __init__(self) -> None:
        super().__init__("cpu", enabled=False)

    def scale(self, outputs: Any) -> Any:
        raise _Reached


class _Reached(Exception):
    """The loss has been computed."""


class RtdGdes:
    """One network is generator and discriminator, so the head of masked prediction is all that the generator has for
    itself. Masks are those of the collator in its ``data.py``, with that file's settings."""

    def step(self, text: Text, seed: int) -> Step:
        model = small_model()
        scores = adds(model.deberta.cls, text.generator_scores)
        judged = adds(model.disc_head, text.discriminator_scores)
        generated: list[Any] = []
        losses: list[Tensor] = []
        labels: list[Tensor] = []
        read: list[Tensor] = []
        forward = model.forward_disc

        def reading(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            read.append(input_ids.clone())
            return forward(input_ids=input_ids, attention_mask=attention_mask)

        model.forward_disc = reading
        with seeded(seed):
            collate = DataCollatorForLanguageModeling(tokenizer=tokenizer(), mlm=True, return_tensors="pt")
            rows = [
                {"input_ids": ids, "attention_mask": seen}
                for ids, seen in zip(text.ids, real(text).long(), strict=True)
            ]
            batch = BatchEncoding(collate(rows))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            with (
                noted(model, "forward_gen", generated),
                noted(theirs, "_disc_loss", losses),
                noted(theirs, "_build_disc_labels", labels),
                contextlib.suppress(_Reached),
            ):
                theirs.train_one_epoch(
                    tokenizer=SimpleNamespace(mask_token_id=MASK),
                    dataloader=[batch],
                    model=model,
                    lambda_disc=0.5,
                    optimizer=optimizer,
                    scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9),
                    dtype=torch.float32,
                    scaler=_Watching(),
                    device=torch.device("cpu"),
                    max_norm=1.0,
                )
        masked = batch["labels"] != IGNORED
        generator_loss, loss = generated[0].loss, losses[0]
        embeddings = {id(one) for one in model.deberta.deberta.parameters()}
        own = [one for one in model.deberta.parameters() if id(one) not in embeddings]
        return Step(
            masked=masked,
            # What the discriminator gets is the generator's likeliest tokens, whole.
            drawn=read[0],
            read=read[0],
            labels=labels[0].long(),
            generator_scores=scores[0].detach(),
            discriminator_scores=judged[0].detach().squeeze(-1),
            generator_loss=float(generator_loss.detach()),
            discriminator_loss=float(loss.detach()),
            generator_gradient=gradient(generator_loss, scores[0]),
            discriminator_gradient=gradient(loss, judged[0]).squeeze(-1),
            leak=largest(loss, [scores[0], *own]),
        )


@functools.cache
def _folder() -> str:
    """A folder with a small network as transformers saves it, since the trainer opens one by name."""
    folder = tempfile.mkdtemp()
    config = DebertaV2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        type_vocab_size=0,
        pad_token_id=PAD,
    )
    DebertaV2ForMaskedLM(config).save_pretrained(folder)
    return folder


def small_model() -> DebertaV3GDES:
    """Its model, the same each time."""
    disable_progress_bar()
    with seeded(1):
        return DebertaV3GDES(_folder())
