"""Masked and replaced tokens: draws and figures against plain loops, errors against what they estimate."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from data_pipeline.errors import UserError
from electra_scale.evaluate.networks import open_discriminator, open_masked_lm
from electra_scale.evaluate.passages import Masking, make_passages, read_documents
from electra_scale.evaluate.tokens import (
    area_with_error,
    evaluate_masked_tokens,
    evaluate_replaced_tokens,
    predict,
    ratio,
)
from electra_scale.export.named_model import NamedModel
from electra_scale.tasks.detection import auc
from tests.unit.evaluate.conftest import LONGEST, SIZES, WORDS, write

DOCUMENTS = [" ".join(np.random.default_rng(n).choice(WORDS[:-2], 40)) for n in range(6)]
MASKING = Masking(passages=9, length=14, share=0.3)


def test_passages_are_pieces_of_the_text_with_a_share_of_their_tokens_masked(folders: dict[str, Path]) -> None:
    network = open_masked_lm("g", folders["generator"])
    passages = make_passages(network, DOCUMENTS, MASKING)
    assert len(passages) == 9
    whole = [network.tokenizer(text, add_special_tokens=False)["input_ids"] for text in DOCUMENTS]
    for passage in passages:
        inner = passage.ids[1:-1]
        assert len(passage.ids) <= 14
        assert any(inner == ids[first : first + len(inner)] for ids in whole for first in range(len(ids)))
        assert set(passage.masked) <= set(passage.own) <= set(range(1, len(passage.ids) - 1))
        assert len(passage.masked) == max(1, round(0.3 * len(passage.own)))
    again = make_passages(network, DOCUMENTS[::-1], replace(MASKING, passages=4))
    for one, other in zip(passages, again, strict=False):
        assert one.ids == other.ids
        assert one.masked.tolist() == other.masked.tolist()
        assert one.uniform.tolist() == other.uniform.tolist()


def test_draws_and_probabilities_are_those_of_one_passage_after_the_other(folders: dict[str, Path]) -> None:
    network = open_masked_lm("g", folders["generator"])
    passages = make_passages(network, DOCUMENTS, MASKING)
    for passage, found in zip(passages, predict(network, passages), strict=True):
        ids = torch.tensor([passage.ids])
        ids[0, passage.masked] = network.tokenizer.mask_token_id
        with torch.no_grad():
            p = network.model(input_ids=ids).logits[0, passage.masked].double().softmax(-1).numpy()
        original = np.array(passage.ids)[passage.masked]
        assert np.allclose(found.log_probability, np.log(p[np.arange(len(p)), original]), atol=1e-5)
        assert found.hit.tolist() == (p.argmax(-1) == original).tolist()
        below = p.cumsum(-1)[np.arange(len(p)), found.drawn]
        assert (below > passage.uniform - 1e-6).all()
        assert (below - p[np.arange(len(p)), found.drawn] < passage.uniform + 1e-6).all()


def test_the_figures_are_those_of_the_passages(pair_model: NamedModel) -> None:
    assert pair_model.generator is not None
    source = open_masked_lm("g", pair_model.generator)
    network = open_discriminator("d", pair_model.folder)
    passages = make_passages(source, DOCUMENTS, MASKING)
    predicted = predict(source, passages)
    masked = evaluate_masked_tokens(pair_model, DOCUMENTS, "text", MASKING)
    values = {score.name: score.value for score in masked.scores}
    assert values["masked_cross_entropy"] == pytest.approx(
        -np.concatenate([p.log_probability for p in predicted]).mean()
    )
    assert values["masked_accuracy"] == pytest.approx(np.concatenate([p.hit for p in predicted]).mean())

    logits: list[float] = []
    labels: list[bool] = []
    for passage, found in zip(passages, predicted, strict=True):
        ids = torch.tensor([passage.ids])
        ids[0, passage.masked] = torch.from_numpy(found.drawn)
        with torch.no_grad():
            logits += network.model(input_ids=ids).logits[0, passage.own].flatten().tolist()
        labels += [int(ids[0, place]) != passage.ids[place] for place in passage.own]
    flat, replaced = np.array(logits, dtype=np.float64), np.array(labels)
    detected = evaluate_replaced_tokens(pair_model, pair_model, DOCUMENTS, "text", MASKING)
    scores = {score.name: score for score in detected.scores}
    assert scores["replaced_auc"].value == pytest.approx(auc(flat[replaced], flat[~replaced]))
    assert scores["replaced_accuracy"].value == pytest.approx(((flat > 0) == replaced).mean())
    loss = np.logaddexp(0, np.where(replaced, -flat, flat)).mean()
    assert scores["replaced_loss"].value == pytest.approx(loss, rel=1e-5)
    share = replaced.mean()
    assert scores["replaced_accuracy"].chance == pytest.approx(max(share, 1 - share))
    assert scores["replaced_loss"].chance == pytest.approx(-share * math.log(share) - (1 - share) * math.log(1 - share))
    assert detected.settings["generator"] == "pair"


def test_the_errors_are_the_spread_of_the_figures_over_new_texts() -> None:
    draw = np.random.default_rng(0)

    def sample() -> tuple[list[Any], list[Any]]:
        """Forty passages, in each of which logits have something in common."""
        labels = [draw.random(20) < 0.2 for _ in range(40)]
        return [draw.normal(label * 1.0 + draw.normal(0, 0.7), 1.0) for label in labels], labels

    samples = [sample() for _ in range(150)]
    for figure in (lambda one: area_with_error(*one), lambda one: ratio(one[0])):
        values, errors = np.array([figure(one) for one in samples]).T
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)


def test_a_generator_with_another_tokenizer_is_refused(electra_model: NamedModel, tmp_path: Path) -> None:
    config = BertConfig(max_position_embeddings=LONGEST, **SIZES)
    folder = write(tmp_path / "b", BertForMaskedLM(config), words=["the", "a", *WORDS[2:]])
    with pytest.raises(UserError, match=r"have different tokenizers \(\d+ tokens differ"):
        evaluate_replaced_tokens(electra_model, NamedModel("other", folder), DOCUMENTS, "text", MASKING)


def test_a_bert_may_be_the_generator(electra_model: NamedModel, folders: dict[str, Path]) -> None:
    found = evaluate_replaced_tokens(electra_model, NamedModel("bert", folders["bert"]), DOCUMENTS, "text", MASKING)
    assert all(math.isfinite(score.value) for score in found.scores)


def test_texts_are_read_from_files_of_three_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\r\n\r\nthree\n")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n')
    assert read_documents(str(tmp_path / "a.txt")) == ["one\ntwo", "three\n"]
    assert read_documents(str(tmp_path / "b.jsonl")) == ["one"]
    (tmp_path / "empty.txt").write_text("\n\n\n")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "c.jsonl").write_text('{"words": "one"}\n')
    for name, reason in (
        ("empty.txt", "has no text"),
        ("bad.txt", "is not text in UTF-8"),
        ("c.jsonl", "has no column 'text'"),
        ("none", "cannot read"),
        ("", "is a folder and not a store"),
    ):
        with pytest.raises(UserError, match=reason):
            read_documents(str(tmp_path / name))


@pytest.mark.parametrize("changes", [{"passages": 0}, {"length": 3}, {"share": 0.0}, {"share": 1.0}])
def test_settings_that_mask_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"--(passages|length|mask-share) is"):
        replace(MASKING, **changes).check()


def test_a_text_without_tokens_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="no piece of which g could read more than one token"):
        make_passages(open_masked_lm("g", folders["generator"]), ["", "the"], MASKING)
