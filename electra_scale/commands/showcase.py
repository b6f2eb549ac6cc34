"""``electra-scale try``: shows exported checkpoints at work, through transformers alone."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, ElectraForMaskedLM, ElectraForPreTraining
from transformers.utils import logging

from data_pipeline.errors import UserError

EXAMPLE_MASKED = "The government of the [MASK] has the power to make laws."
EXAMPLE_WRONG = "The president of the country was elected by the banana of the people."


def show(export: Path, masked: str | None = None, wrong: str | None = None) -> None:
    """Print the generator's five best tokens for the [MASK] of ``masked`` and the discriminator's score for each token
    of ``wrong``; raises UserError if ``masked`` has not exactly one [MASK], or if there is no export."""
    if not (export / "discriminator").is_dir():
        raise UserError(f"{export} holds no export: it has no folder discriminator; make one with electra-scale export")
    masked, wrong = masked or EXAMPLE_MASKED, wrong or EXAMPLE_WRONG
    # A bar for two files of a few megabytes would only tear the table apart.
    logging.disable_progress_bar()
    if (export / "generator").is_dir():
        print(f'generator, five best for "{masked}"')
        for token, probability in fill(export / "generator", masked):
            print(f"  {token:<16} {probability:.3f}")
    else:
        print(f"{export} holds no generator, so no [MASK] is filled in")
    print(f'discriminator, probability that a token was replaced, in "{wrong}"')
    for token, probability in detect(export / "discriminator", wrong):
        print(f"  {token:<16} {probability:.3f}  {'#' * round(40 * probability)}")


@torch.no_grad()
def fill(generator: Path, sentence: str, best: int = 5) -> list[tuple[str, float]]:
    """The likeliest tokens at the sentence's [MASK], with their probabilities; raises UserError without a [MASK]."""
    tokenizer = AutoTokenizer.from_pretrained(str(generator))
    model = ElectraForMaskedLM.from_pretrained(str(generator)).eval()
    encoded = tokenizer(sentence, return_tensors="pt")
    places = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero()
    if len(places) != 1:
        raise UserError(f'"{sentence}" has {len(places)} [MASK] tokens; write exactly one')
    probabilities = model(**encoded).logits[0, places[0, 0]].softmax(-1)
    top = probabilities.topk(best)
    names = tokenizer.convert_ids_to_tokens(top.indices.tolist())
    return list(zip(names, top.values.tolist(), strict=True))


@torch.no_grad()
def detect(discriminator: Path, sentence: str) -> list[tuple[str, float]]:
    """Each token of the sentence with the probability that it was replaced."""
    tokenizer = AutoTokenizer.from_pretrained(str(discriminator))
    model = ElectraForPreTraining.from_pretrained(str(discriminator)).eval()
    encoded = tokenizer(sentence, return_tensors="pt")
    probabilities = model(**encoded).logits[0].sigmoid()
    names = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0].tolist())
    return list(zip(names, probabilities.tolist(), strict=True))[1:-1]
