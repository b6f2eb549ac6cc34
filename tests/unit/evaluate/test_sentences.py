"""Scores of sentences are those of one pass after the other through transformers' own models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import logsigmoid

from electra_scale.evaluate.networks import open_discriminator, open_masked_lm
from electra_scale.evaluate.sentences import Sentence, discriminator_scores, encode, pseudo_log_likelihoods
from tests.unit.evaluate.conftest import LONGEST, SENTENCES


def encoded(network: object, texts: list[str]) -> list[Sentence]:
    found = [one for one in encode(network, texts) if one is not None]  # type: ignore[arg-type]
    assert len(found) == len(texts)
    return found


def test_the_discriminator_scores_the_sentences_own_tokens(folders: dict[str, Path]) -> None:
    network = open_discriminator("d", folders["discriminator"])
    expected = []
    for text in SENTENCES:
        with torch.no_grad():
            logits = network.model(**network.tokenizer(text, return_tensors="pt")).logits[0, 1:-1]
        expected.append(float(logsigmoid(-logits.double()).sum()))
    assert len(set(expected)) == len(expected)
    assert discriminator_scores(network, encoded(network, SENTENCES)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["generator", "bert", "modernbert"])
def test_the_pseudo_log_likelihood_masks_one_token_at_a_time(folders: dict[str, Path], kind: str) -> None:
    network = open_masked_lm(kind, folders[kind])
    expected = []
    for text in SENTENCES:
        inputs = network.tokenizer(text, return_tensors="pt")
        total = 0.0
        for place in range(1, inputs["input_ids"].shape[1] - 1):
            masked = inputs["input_ids"].clone()
            masked[0, place] = network.tokenizer.mask_token_id
            with torch.no_grad():
                logits = network.model(input_ids=masked, attention_mask=inputs["attention_mask"]).logits
            total += float(logits[0, place].double().log_softmax(-1)[inputs["input_ids"][0, place]])
        expected.append(total)
    assert pseudo_log_likelihoods(network, encoded(network, SENTENCES)) == pytest.approx(expected, rel=1e-4)


def test_a_text_that_is_too_long_or_empty_has_no_score(folders: dict[str, Path]) -> None:
    network = open_discriminator("d", folders["discriminator"])
    assert network.longest == LONGEST
    found = encode(network, ["the man.", "the " * (LONGEST - 2), "the " * (LONGEST - 1), ""])
    assert [one is None for one in found] == [False, False, True, True]
