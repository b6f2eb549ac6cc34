"""What a user leaves out follows from the task and the width of the encoder, as in ELECTRA."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from data_pipeline.errors import UserError
from electra_scale.finetune.recipe import Choices, micro_batches, recipe_of
from electra_scale.finetune.tasks.known import TASKS, known_task


@pytest.mark.parametrize(("width", "rate", "decay"), [(256, 3e-4, 0.8), (768, 1e-4, 0.8), (1024, 5e-5, 0.9)])
def test_rates_and_decay_are_those_of_small_base_and_large(width: int, rate: float, decay: float) -> None:
    recipe, notes = recipe_of(Choices(), known_task("cola"), width, 512)
    assert (recipe.rate, recipe.decay) == (rate, decay)
    assert (recipe.batch, recipe.warmup, recipe.epochs, recipe.length) == (32, 0.1, 3.0, 128)
    assert notes == []


def test_epochs_and_lengths_are_those_of_the_task() -> None:
    epochs = {name: recipe_of(Choices(), task, 256, None)[0].epochs for name, task in TASKS.items()}
    assert {name for name, number in epochs.items() if number == 10} == {"rte", "stsb"}
    assert {name for name, number in epochs.items() if number == 2} == {"squad", "squad_v2"}
    assert recipe_of(Choices(), known_task("squad"), 256, 512)[0].length == 512
    assert {name for name, task in TASKS.items() if task.both_orders} == {"mrpc", "stsb"}


def test_a_length_that_the_model_has_no_positions_for_becomes_shorter_and_is_said() -> None:
    recipe, notes = recipe_of(Choices(length=256), known_task("cola"), 256, 64)
    assert recipe.length == 64
    assert notes == ["length 256 becomes 64, all positions that the model has"]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", [field.name for field in fields(Choices) if "float" in str(field.type)])
def test_a_number_that_is_not_finite_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is {value}; it must be "):
        Choices(**{name: value})


def test_ranks_share_a_batch_and_accumulate_what_does_not_fit() -> None:
    assert micro_batches(32, 1, 32) == (32, 1)
    assert micro_batches(32, 4, 32) == (8, 1)
    assert micro_batches(32, 1, 12) == (8, 4)
    assert micro_batches(30, 2, 4) == (3, 5)
    with pytest.raises(UserError, match="cannot be shared by 3 ranks; give 33"):
        micro_batches(32, 3, 32)
