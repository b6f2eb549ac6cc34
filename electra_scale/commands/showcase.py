"""``electra-scale try``: shows exported checkpoints at work, through transformers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from data_pipeline.errors import UserError
from data_pipeline.tokenize.panics import panics_as_errors
from electra_scale.export.transformers_folder import detection, quiet
from electra_scale.inside.networks import open_network

EXAMPLE_MASKED = "The government of the [MASK] has the power to make laws."
EXAMPLE_WRONG = "The president of the country was elected by the banana of the people."

_SHOWN = 60


def show(export: Path, masked: str | None = None, wrong: str | None = None) -> None:
    """Print the generator's five best tokens for the [MASK] of ``masked`` and the discriminator's score for each token
    of ``wrong``; raises UserError if there is no export, or for a sentence that its networks can't take."""
    if not any((export / network).is_dir() for network in ("discriminator", "generator")):
        raise UserError(
            f"{export} holds no export: neither discriminator/ nor generator/ is there; make one with electra-scale "
            "export"
        )
    masked = EXAMPLE_MASKED if masked is None else masked
    wrong = EXAMPLE_WRONG if wrong is None else wrong
    for sentence in (masked, wrong):
        try:
            sentence.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{_short(sentence)!a} is not text in UTF-8; write it in UTF-8") from error
    # A bar for two files of a few megabytes would only tear the table apart, and what is wrong is said below.
    quiet()
    if (export / "generator").is_dir():
        found = fill(export / "generator", masked)
        print(f'generator, five best for "{masked}"')
        for token, probability in found:
            print(f"  {token:<16} {probability:.3f}")
    else:
        print(f"{export} holds no generator, so no [MASK] is filled in")
    if not (export / "discriminator").is_dir():
        print(f"{export} holds no discriminator, so no token is scored")
        return
    scored = detect(export / "discriminator", wrong)
    print(f'discriminator, probability that a token was replaced, in "{wrong}"')
    for token, probability in scored:
        print(f"  {token:<16} {probability:.3f}  {'#' * round(40 * probability)}")


@torch.no_grad()
def fill(generator: Path, sentence: str, best: int = 5) -> list[tuple[str, float]]:
    """The likeliest tokens at the sentence's [MASK], with their probabilities.

    Raises UserError for a sentence that is too long or has not exactly one [MASK], and for a folder without generator.
    """
    tokenizer, model = open_network(generator, "generator")
    encoded = _encoded(tokenizer, model, sentence)
    places = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero()
    if len(places) != 1:
        raise UserError(f'"{_short(sentence)}" has {len(places)} [MASK] tokens; write exactly one')
    probabilities = model(**encoded).logits[0, places[0, 0]].softmax(-1)
    top = probabilities.topk(min(best, len(probabilities)))
    indices = top.indices.tolist()
    found = zip(tokenizer.convert_ids_to_tokens(indices), indices, strict=True)
    # A vocabulary may have ids that no token has.
    names = [token or f"id {index}" for token, index in found]
    return list(zip(names, top.values.tolist(), strict=True))


@torch.no_grad()
def detect(discriminator: Path, sentence: str) -> list[tuple[str, float]]:
    """Each token of the sentence with the probability that it was replaced.

    Raises UserError for a sentence that is too long or has no word, and for a folder without discriminator.
    """
    tokenizer, model = open_network(discriminator, "discriminator")
    encoded = _encoded(tokenizer, model, sentence)
    probabilities = detection(model(**encoded))[0].sigmoid()
    names = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0].tolist())
    found = list(zip(names, probabilities.tolist(), strict=True))[1:-1]
    if not found:
        raise UserError(f'"{_short(sentence)}" has no word to look at; write a sentence')
    return found


def _encoded(tokenizer: Any, model: Any, sentence: str) -> Any:
    try:
        with panics_as_errors():
            encoded = tokenizer(sentence, return_tensors="pt")
    except Exception as error:  # settings of a damaged tokenizer are used only here
        raise UserError(f"the tokenizer of the export cannot be used ({error}); export it again") from error
    length, most = encoded["input_ids"].shape[1], model.config.max_position_embeddings
    if length > most:
        raise UserError(f'"{_short(sentence)}" has {length} tokens, and the model takes at most {most}; shorten it')
    return encoded


def _short(sentence: str) -> str:
    return sentence if len(sentence) <= _SHOWN else f"{sentence[:_SHOWN]}..."
