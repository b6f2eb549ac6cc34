"""What a model sees of rows, and that its outputs come back to the rows that they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from electra_scale.finetune.encode import IGNORED, encode_tags, encode_texts
from electra_scale.finetune.spans import encode_questions, predicted_answers
from electra_scale.finetune.tasks.examples import checked_examples
from electra_scale.finetune.tasks.known import known_task
from electra_scale.finetune.tasks.rows import Rows
from electra_scale.finetune.tasks.task import own_task


@pytest.fixture(scope="module")
def tokenizer(encoder: Path) -> Any:
    return AutoTokenizer.from_pretrained(encoder)


TEXT = own_task("classification", "own", {"text": "text", "label": "label"}, ("bad", "good"))


def test_long_texts_are_cut_and_counted_with_an_example(tokenizer: Any) -> None:
    rows = [{"text": "the film was good " * 10, "label": 1}, {"text": "bad", "label": 0}]
    part = encode_texts(TEXT, rows, tokenizer, 16, True)
    assert [len(feature["input_ids"]) for feature in part.features] == [16, 3]
    assert part.features[0]["input_ids"][-1] == tokenizer.sep_token_id
    assert part.notes == [
        "1 row of 2 cut at 16 pieces (such as 'the film was good the film was good the film was g...')"
    ]


def test_pairs_are_trained_in_both_orders_and_scored_in_one(tokenizer: Any) -> None:
    rows = [{"text": "the film", "text2": "a plot", "label": 1}]
    train = encode_texts(known_task("mrpc"), rows, tokenizer, 16, True)
    said = [tokenizer.decode(feature["input_ids"]) for feature in train.features]
    assert said == ["[CLS] the film [SEP] a plot [SEP]", "[CLS] a plot [SEP] the film [SEP]"]
    assert [feature["labels"] for feature in train.features] == [1, 1]
    assert train.features[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    assert len(encode_texts(known_task("mrpc"), rows, tokenizer, 16, False).features) == 1


def test_scores_are_of_the_rows_whatever_order_the_model_saw(tokenizer: Any) -> None:
    rows = [{"text": "the film " * n, "label": n % 2} for n in (1, 4, 2, 7, 3, 3, 8)]
    part = encode_texts(TEXT, rows, tokenizer, 64, False)
    lengths = [len(feature["input_ids"]) for feature in part.features]
    assert lengths == sorted(lengths, reverse=True)
    # The number of films in a text says its class.
    truth = [(length - 2) // 2 % 2 for length in lengths]
    assert part.score(np.eye(2)[truth])["accuracy"] == 1.0


def test_the_first_piece_of_a_word_has_its_tag(tokenizer: Any) -> None:
    task = known_task("conll2000")
    assert task.labels is not None
    noun, verb = task.labels.index("B-NP"), task.labels.index("B-VP")
    # "mad" is three pieces, and a word of a control character alone has none.
    rows = [{"tokens": ["mad", "\x00", "was"], "tags": [noun, 0, verb]}]
    part = encode_tags(task, rows, tokenizer, 16, True)
    assert part.features[0]["labels"] == [IGNORED, noun, IGNORED, IGNORED, verb, IGNORED]
    assert "beyond 16 pieces or without a piece" in part.notes[0]


def test_tags_may_be_numbers_of_labels_that_the_user_names() -> None:
    task = own_task("tagging", "own", {"tokens": "tokens", "tags": "tags"}, ("DET", "NOUN", "VERB"))
    rows = Rows("file", [{"tokens": ["the", "film"], "tags": [0, 1]}])
    found = checked_examples(task, {"train": rows, "validation": rows})
    assert found.splits["train"][0]["tags"] == [0, 1]
    # Parts of speech are no chunks.
    assert found.task.metrics == ("accuracy",)


def test_words_that_the_model_does_not_see_count_as_untagged(tokenizer: Any) -> None:
    task = known_task("conll2000")
    assert task.labels is not None
    noun = task.labels.index("B-NP")
    rows = [{"tokens": ["film"] * 10, "tags": [noun] * 10}, {"tokens": ["the"], "tags": [noun]}]
    part = encode_tags(task, rows, tokenizer, 6, False)
    found = part.score(np.full((2, 6), noun))
    assert found["recall"] == pytest.approx(5 / 11)
    assert found["precision"] == 1.0


CONTEXT = "the film was good . " * 12 + "the actor was dull"


def test_windows_hold_every_piece_and_the_answer_is_found_again(tokenizer: Any) -> None:
    answer = CONTEXT.index("dull")
    rows = [
        {"id": "a", "question": "what was the actor", "context": CONTEXT, "answers": [("dull", answer)]},
        {"id": "b", "question": "what", "context": "the plot", "answers": [("the plot", 0)]},
    ]
    task = known_task("squad")
    train = encode_questions(task, rows, tokenizer, 40, True)
    scored = encode_questions(task, rows, tokenizer, 40, False)
    assert len(train.features) == len(scored.features) > 3
    assert all(len(feature["input_ids"]) <= 40 for feature in train.features)
    assert "windows of at most 40 pieces" in train.notes[-1]
    marked = [f for f in train.features if f["start_positions"] > 0]
    said = [tokenizer.decode(f["input_ids"][f["start_positions"] : f["end_positions"] + 1]) for f in marked]
    assert said[-1] == "the plot"
    assert set(said[:-1]) == {"dull"}
    starts, ends = (np.full((len(train.features), 40), -5.0) for _ in range(2))
    for index, feature in enumerate(train.features):
        starts[index, feature["start_positions"]] = ends[index, feature["end_positions"]] = 5.0
    assert scored.score((starts, ends)) == {"f1": 1.0, "exact_match": 1.0}


def test_the_best_span_is_that_of_all_spans() -> None:
    draw = np.random.default_rng(1)
    context = "a b c d e f g h"
    offsets = [None, None, *[(2 * i, 2 * i + 1) for i in range(8)], None]
    windows = [offsets, offsets]
    for _ in range(20):
        starts, ends = draw.normal(size=(2, 2, 11))
        answers, margins = predicted_answers([{"context": context}], [0, 0], windows, starts, ends)
        spans = [
            (starts[w, i] + ends[w, j], context[2 * (i - 2) : 2 * (j - 2) + 1])
            for w in range(2)
            for i in range(2, 10)
            for j in range(i, 10)
        ]
        score, text = max(spans)
        assert answers == [text]
        assert margins[0] == pytest.approx((starts[:, 0] + ends[:, 0]).min() - score)


def test_a_long_question_leaves_room_for_its_context(tokenizer: Any) -> None:
    rows = [{"id": "a", "question": "what was " * 40, "context": "the film was good", "answers": [("good", 13)]}]
    part = encode_questions(known_task("squad"), rows, tokenizer, 40, True)
    assert "1 question of 1 cut at 18 pieces" in part.notes[0]
    assert any(feature["start_positions"] > 0 for feature in part.features)
