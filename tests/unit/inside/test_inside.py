"""Looking inside shows what training does: its q, its draws, its weights, its discriminator."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import pytest
import torch

from data_pipeline.errors import UserError
from electra_scale.corruption.random import RandomSettings
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.batch import Batch
from electra_scale.inside.inside import Inside
from electra_scale.inside.run import OpenedRun
from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.corruption import CorruptionSettings
from tests.unit.inside.conftest import SAMPLERS, VOCABULARY, WORDS, open_inside, without_distributions

TEXT = "the cat sat on the mat."
ALL: dict[str, CorruptionSettings] = {**SAMPLERS, "random": RandomSettings()}


def opened(inside: Inside) -> OpenedRun:
    assert isinstance(inside.opened, OpenedRun)
    return inside.opened


@pytest.mark.parametrize("name", SAMPLERS)
def test_p_q_and_draws_are_those_that_a_step_of_training_has_at_these_positions(name: str) -> None:
    inside = open_inside(SAMPLERS[name])
    run, masked = opened(inside), [2, 3, 6]
    ids = torch.tensor(
        [[VOCABULARY[token] for token in ["[CLS]", "the", "cat", "sat", "on", "the", "mat", ".", "[SEP]"]]]
    )
    for key in range(5):
        looked = inside.look(TEXT, masked, key, best=len(WORDS))
        batch = Batch(
            ids, torch.zeros_like(ids), torch.tensor(masked), torch.ones(3, dtype=torch.bool), torch.zeros(3).double()
        )
        corruptor = run.module.corruptor
        found = corruptor.masked_positions(run.module.electra, batch, Layout.of(batch.segment))
        scores = found.features @ found.word_embeddings.T + found.bias
        for row, position in enumerate(looked.positions):
            p = {one.id: one.p for one in position.candidates}
            q = {one.id: one.q for one in position.candidates}
            assert [p[v] for v in range(len(WORDS))] == pytest.approx(scores[row].softmax(-1).tolist(), rel=1e-4)
            assert sum(q.values()) == pytest.approx(1)
            assert position.index == masked[row]
            assert position.original.id == int(ids[0, masked[row]])
            # The draw of training lands on this token where its uniform number lies in the token's part of q.
            before = sum(q[v] for v in range(position.drawn.id))
            middle = torch.full((3,), before + q[position.drawn.id] / 2, dtype=torch.float64)
            drawn = propose(corruptor.sampler, replace(found, uniform=middle), mixture=corruptor.mixture_at(run.clock))
            assert int(drawn.tokens[row]) == position.drawn.id
            assert position.drawn.p / position.drawn.q == pytest.approx(float(drawn.weight[row]), rel=1e-3)
            expected = float(drawn.weight[row]) if run.recipe.corruption.power else 1.0
            assert position.weight == pytest.approx(expected, rel=1e-3)
            if name == "electra":
                assert position.drawn.hardness is None
            else:
                assert position.drawn.hardness == pytest.approx(float(drawn.hardness[row]), rel=1e-3)


def test_draws_of_many_keys_are_as_frequent_as_q_says(hard: Inside) -> None:
    draws = [hard.look("the cat sat", [2], key, best=len(WORDS)).positions[0] for key in range(50)]
    q = {one.token: one.q for one in draws[0].candidates if one.q > 0.05}
    assert len(q) > 3
    for token, chance in q.items():
        share = sum(one.drawn.token == token for one in draws) / len(draws)
        assert abs(share - chance) < 4 * (chance * (1 - chance) / len(draws)) ** 0.5, token


def test_scores_are_the_discriminators_of_the_text_with_its_draws(hard: Inside) -> None:
    looked = hard.look(TEXT, [2, 5], key=3)
    run = opened(hard)
    shown = [VOCABULARY[token.drawn or token.token] for token in looked.tokens]
    ids = torch.tensor([shown])
    with torch.no_grad():
        hidden = run.module.electra.discriminator_hidden(ids, Layout.of(torch.zeros_like(ids))).last
        expected = run.module.electra.discriminator_head(hidden)[0].sigmoid()
    assert [token.score for token in looked.tokens] == pytest.approx(expected.tolist(), abs=1e-6)
    assert [token.replaced for token in looked.tokens] == [
        token.drawn is not None and token.drawn != token.token for token in looked.tokens
    ]
    assert [index for index, token in enumerate(looked.tokens) if token.masked] == [2, 5]


def test_the_schedule_of_the_checkpoints_step_decides_the_mixture() -> None:
    settings = replace(SAMPLERS["hp_loss"], start_after=100)
    early = open_inside(settings, step=99).look(TEXT, [2])
    late = open_inside(settings, step=100).look(TEXT, [2])
    assert all(one.hardness == pytest.approx(1) for one in early.positions[0].candidates)
    assert any(abs((one.hardness or 1) - 1) > 0.1 for one in late.positions[0].candidates)


@pytest.mark.parametrize("name", ALL)
def test_the_same_question_has_the_same_answer_and_another_key_another_draw(name: str) -> None:
    inside = open_inside(ALL[name])
    assert inside.look(TEXT, [2, 3], 7) == inside.look(TEXT, [3, 2, 3], 7)
    drawn = {tuple(one.drawn.token for one in inside.look(TEXT, [2, 3, 4], key).positions) for key in range(8)}
    assert len(drawn) > 1
    json.dumps(dataclasses.asdict(inside.look(TEXT, [2])), allow_nan=False)


def test_looking_changes_neither_weights_nor_the_global_random_state(hard: Inside) -> None:
    before = {name: value.clone() for name, value in opened(hard).module.state_dict().items()}
    state = torch.get_rng_state()
    hard.look(TEXT, [1, 2], 1)
    hard.random_masks(TEXT, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in opened(hard).module.state_dict().items())


def test_without_masks_the_text_itself_is_scored(hard: Inside) -> None:
    looked = hard.look(TEXT)
    assert looked.positions == ()
    assert all(token.drawn is None and not token.masked and token.score is not None for token in looked.tokens)


def test_ids_are_read_as_the_text_that_they_spell(hard: Inside) -> None:
    of_text, of_ids = hard.look(TEXT, [2], 4), hard.look([token.id for token in hard.look(TEXT).tokens], [2], 4)
    assert of_ids.positions == of_text.positions
    assert [token.score for token in of_ids.tokens] == [token.score for token in of_text.tokens]


def test_candidates_are_the_likeliest_by_q_and_by_p_with_original_and_drawn_and_sum_to_one_with_the_others() -> None:
    inside = open_inside(SAMPLERS["hp_loss"], rough=1.5)
    everything = {one.id: one for one in inside.look(TEXT, [2], 5, best=len(WORDS)).positions[0].candidates}
    position = inside.look(TEXT, [2], 5, best=3).positions[0]
    listed = {one.id for one in position.candidates}
    for by in (lambda one: one.q, lambda one: one.p):
        assert {one.id for one in sorted(everything.values(), key=by)[-3:]} <= listed
    assert {position.original.id, position.drawn.id} <= listed
    assert [one.q for one in position.candidates] == sorted((one.q for one in position.candidates), reverse=True)
    assert position.others.count == len(WORDS) - len(listed)
    assert position.others.q + sum(one.q for one in position.candidates) == pytest.approx(1)
    assert position.others.p is not None
    assert position.others.p + sum(one.p for one in position.candidates) == pytest.approx(1)


def test_a_run_without_a_generator_has_no_p_and_says_so() -> None:
    inside = open_inside(RandomSettings())
    position = inside.look(TEXT, [2], 1).positions[0]
    assert position.drawn.p is None
    assert position.drawn.hardness is None
    assert position.others.p is None
    assert position.drawn.q == pytest.approx(1 / (len(WORDS) - 4))
    assert len(position.candidates) <= 2
    assert "no generator" in inside.about.notes[0]


def test_a_corruption_without_distributions_shows_its_draws_and_scores_and_says_so() -> None:
    expected = open_inside(RandomSettings()).look(TEXT, [2, 4], 1)
    inside = without_distributions()
    looked = inside.look(TEXT, [2, 4], 1)
    assert looked.tokens == expected.tokens
    assert [(one.index, one.drawn.id, one.drawn.q, one.candidates) for one in looked.positions] == [
        (one.index, one.drawn.id, None, ()) for one in expected.positions
    ]
    assert "no p and q to show" in looked.notes[-1]
    assert inside.look(TEXT).notes == ()


def test_random_masks_take_the_recipes_share_and_no_special_token(hard: Inside) -> None:
    found = [hard.random_masks(TEXT, key) for key in range(50)]
    assert all(len(masks) == 2 for masks in found)
    assert {position for masks in found for position in masks} == set(range(1, 8))
    assert hard.random_masks(TEXT, 3) == hard.random_masks(TEXT, 3)
    assert hard.random_masks(TEXT, 3, share=1.0) == [1, 2, 3, 4, 5, 6, 7]
    assert len(hard.random_masks("cat", 0)) == 1


@pytest.mark.parametrize("masked", [[0], [8], [9], [-1], [2, 99]])
def test_what_cannot_be_masked_is_refused_with_what_can(hard: Inside, masked: list[int]) -> None:
    with pytest.raises(UserError, match=r"cannot be masked.*1 to 7"):
        hard.look(TEXT, masked)


def test_as_many_tokens_as_the_rows_of_training_are_taken_and_one_more_is_refused(hard: Inside) -> None:
    assert len(hard.look("cat " * 10).tokens) == 12
    with pytest.raises(UserError, match=r"13 tokens with \[CLS\] and \[SEP\].*at most 12"):
        hard.look("cat " * 11)
    with pytest.raises(UserError, match="at most 12"):
        hard.look([2, *[5] * 20, 3])


@pytest.mark.parametrize("text", ["", "  \n\t ", "\u200b\u0000"])
def test_a_text_without_a_token_is_refused(hard: Inside, text: str) -> None:
    with pytest.raises(UserError, match="no token to look at"):
        hard.look(text)


def test_bytes_that_are_not_text_are_refused(hard: Inside) -> None:
    with pytest.raises(UserError, match="not text in UTF-8"):
        hard.look("the \ud800 cat")


def test_what_the_vocabulary_lacks_is_named_with_its_characters(hard: Inside) -> None:
    looked = hard.look("the 🦊 sat on Zürich")
    unknown = [token for token in looked.tokens if token.token == "[UNK]"]
    assert [token.source for token in unknown] == ["🦊", "Zürich"]
    assert all(token.maskable for token in unknown)
    assert looked.notes == ("The vocabulary lacks 2 pieces of the text, which the model reads as [UNK]: 🦊, Zürich.",)


def test_the_name_of_a_special_token_is_characters_and_a_note_says_what_to_do(hard: Inside) -> None:
    looked = hard.look("the [MASK] sat")
    assert "[MASK]" not in [token.token for token in looked.tokens]
    assert any("plain characters" in note for note in looked.notes)
