"""What an arm costs: the phases of its whole run, and the text of the store that it runs on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.study.arms import Study
from benchmarks.study.cost import ArmCost, PhaseCost, arm_cost, costs
from electra_scale.corruption.corruption import cost_of
from electra_scale.data.store import Store
from electra_scale.model.cost import training_flops

from .conftest import MASKED_ALONE, write_arm


def test_operations_are_counted_from_the_first_step_of_all() -> None:
    cost = ArmCost((PhaseCost("generator_warmup", 30, 2.0, 10), PhaseCost("joint", 8, 5.0, 10)))
    assert (cost.flops, cost.tokens) == (100.0, 380)
    assert (cost.flops_at(0), cost.flops_at(8)) == (60.0, 100.0)


def test_a_step_costs_its_networks_on_the_text_and_its_sampling_head(small: Study, store: Path) -> None:
    opened, recipe = Store(store), small.recipe("electra")
    cost = arm_cost(recipe, opened)
    assert [(phase.name, phase.steps, phase.tokens) for phase in cost.phases] == [
        ("generator_warmup", 6, 8 * 32),
        ("joint", 40, 8 * 32),
    ]
    config = recipe.networks(opened.manifest.tokenizer.vocab_size)
    for phase, share, joint in zip(cost.phases, (0.4, recipe.data.mask_share), (False, True), strict=True):
        # Rows are not all full, and documents are shorter than rows, so it is less than this, but not by much.
        whole = training_flops(config, 32, share, joint) * phase.tokens
        assert 0.8 * whole < phase.flops < whole
    ours = arm_cost(small.recipe("hp_loss_own"), opened).phases[1].flops - cost.phases[1].flops
    masked = 8 * 32 * recipe.data.mask_share
    # Linear in the masked positions but for the keys; there are about as many as asked for.
    head = cost_of(small.recipe("hp_loss_own").corruption, config).flops(round(masked / 2)) * 2
    assert ours == pytest.approx(head, rel=0.15)


def test_masked_prediction_alone_costs_one_network_of_the_discriminators_size(small: Study, store: Path) -> None:
    write_arm(small.recipes, "mlm", data={"mask_share": 0.4}, **MASKED_ALONE)
    wide = {"layers": 2, "hidden": 32, "ffn": 64, "heads": 2}
    write_arm(small.recipes, "hp_loss_own", model={"generator": wide})
    opened = Store(store)
    (alone,) = arm_cost(small.recipe("mlm"), opened).phases
    warmup = arm_cost(small.recipe("hp_loss_own"), opened).phases[0]
    assert (alone.name, alone.steps) == ("mlm", 40)
    assert alone.flops == warmup.flops


def test_without_a_store_nothing_is_counted(small: Study, store: Path) -> None:
    assert costs(small) == {}
    small.out.mkdir()
    small.store.symlink_to(store)
    assert set(costs(dataclasses.replace(small, arms=("electra",)))) == {"electra"}
