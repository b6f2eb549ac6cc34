"""What may change at a resume: every setting has a rule, the page has the same ones, and both values are named."""

from __future__ import annotations

import copy
import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.errors import UserError
from electra_scale.recipe.deepspeed_json import KEYS, SECTION
from electra_scale.recipe.kinds import SEAMS, settings_class
from electra_scale.recipe.optimizer import PartSettings
from electra_scale.recipe.recipe import Recipe
from electra_scale.recipe.resuming import RULES, Change, Settings, changes, draws_differ, rate_line

PAGE = Path(__file__).parents[3] / "docs/checkpoints.md"
JSON: dict[str, Any] = {
    "bf16": {"enabled": False},
    "zero_optimization": {"stage": 2},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "torch_adam": True}},
}


def leaves(section: type[Any], prefix: str = "") -> Iterator[str]:
    """Every setting of a dataclass by its path, as the table has it."""
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        name, kind = f"{prefix}{field.name}", hints[field.name]
        if name in SEAMS:
            for choice in SEAMS[name]:
                yield from leaves(settings_class(name, choice), f"{name}.")
        elif dataclasses.is_dataclass(kind):
            yield from leaves(typing.cast(type, kind), f"{name}.")
        elif PartSettings in typing.get_args(kind):
            yield from leaves(PartSettings, f"{name}.*.")
        else:
            yield name


def recipe(**changed: Any) -> Recipe:
    """The default recipe with 6 steps of warm-up and 12 joint ones, and changes such as ``optimizer__clip=2``."""
    made = Recipe()
    made.generator_warmup.steps, made.schedule.steps = 6, 12
    for name, value in changed.items():
        *parents, leaf = name.split("__")
        holder: Any = made
        for parent in parents:
            holder = getattr(holder, parent)
        if isinstance(value, dict) and dataclasses.is_dataclass(getattr(holder, leaf)):
            value = dataclasses.replace(getattr(holder, leaf), **value)
        setattr(holder, leaf, value)
    return made


def found(phase: str = "joint", step: int = 8, **changed: Any) -> list[Change]:
    return changes(Settings(recipe(), JSON), Settings(recipe(**changed), JSON), phase, step)


def refused(phase: str = "joint", step: int = 8, **changed: Any) -> str:
    with pytest.raises(UserError) as refusal:
        found(phase, step, **changed)
    return str(refusal.value)


def test_every_setting_of_every_kind_has_a_rule_and_every_rule_a_setting() -> None:
    assert set(leaves(Recipe)) == set(RULES)


def test_the_page_has_the_rules_of_the_code() -> None:
    """Tables whose first column names settings, and whose second the rule."""
    rows = re.findall(r"^\| (`[^|]*`) \| (applied|refused|free)", PAGE.read_text(), re.MULTILINE)
    page = {name: rule for names, rule in rows for name in re.findall(r"`([^`]+)`", names)}
    code = {name: rule for name, (rule, _) in RULES.items()}
    code |= {name: key.rule for name, key in KEYS.items() if key.form is not SECTION and not name.endswith(".*")}
    assert page == code


def test_nothing_changed_is_nothing_to_report() -> None:
    assert found() == []
    assert rate_line(recipe(), recipe(), 8) is None


def test_an_applied_change_is_reported_with_its_step_and_both_values() -> None:
    (change,) = found(optimizer__weight_decay=0.5)
    assert change.line(8) == "optimizer.weight_decay changed at step 8 from 0.01 to 0.5"
    assert change.record(8) == {"step": 8, "setting": "optimizer.weight_decay", "from": 0.01, "to": 0.5}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model__discriminator": {"heads": 8}}, "model.discriminator.heads is 8, the run has 4"),
        ({"model__embedding": 64}, "model.embedding is 64, the run has 128"),
        ({"architecture__layer_norm_eps": 1e-6}, "architecture.layer_norm_eps is 1e-06, the run has 1e-12"),
        ({"seed": 1}, "seed is 1, the run has 0"),
        ({"batch__global_batch": 64}, "batch.global_batch is 64, the run has 128"),
        ({"data__packing": "stream"}, "data.packing is stream, the run has greedy"),
    ],
)
def test_what_may_not_change_is_refused_with_both_values(changed: dict[str, Any], words: str) -> None:
    assert f"cannot resume: {words} (" in refused(**changed)


def test_all_that_may_not_change_is_named_at_once_and_nothing_else() -> None:
    text = refused(seed=1, model__embedding=64, optimizer__clip=2.0)
    assert "seed is 1" in text
    assert "model.embedding is 64" in text
    assert "optimizer.clip" not in text


def test_what_only_a_new_run_reads_is_reported_and_where_things_are_is_not() -> None:
    (change,) = found(model__init_from="elsewhere", run_dir="moved", data__store="copy", logging__every=1)
    assert "has no effect: only the start of a run reads it" in change.line(8)


def test_the_warmup_can_change_until_it_is_over() -> None:
    assert "the joint phase began after step 6" in refused(generator_warmup__steps=7)
    assert "the joint phase began after step 6" in refused(schedule__steps=0)
    assert found("generator_warmup", 6, schedule__steps=0)
    assert "the checkpoint is at step 4" in refused("generator_warmup", 4, generator_warmup__steps=3)
    (longer,) = found("generator_warmup", 4, generator_warmup__steps=9)
    assert longer.rule == "applied"
    (late,) = found(generator_warmup__learning_rate=0.5)
    assert "has no effect: the generator's warm-up is over" in late.line(8)


def test_where_the_discriminator_starts_from_can_change_until_it_has_started() -> None:
    for step in (4, 6):
        (change,) = found("generator_warmup", step, generator_warmup__discriminator_from_generator=True)
        assert change.rule == "applied"
    (late,) = found("joint", 7, generator_warmup__discriminator_from_generator=True)
    assert "has no effect: the generator's warm-up is over" in late.line(7)


def test_a_generator_that_is_left_as_it_is_learns_again_only_before_the_joint_phase() -> None:
    (change,) = found(optimizer__generator_rate=0.0)
    assert change.rule == "applied"
    before = Settings(recipe(optimizer__generator_rate=0.0), JSON)
    with pytest.raises(UserError, match=r"generator_rate is 0\.5, the run has 0\.0 \(the frozen generator has no"):
        changes(before, Settings(recipe(optimizer__generator_rate=0.5), JSON), "joint", 8)
    (back,) = changes(before, Settings(recipe(optimizer__generator_rate=0.5), JSON), "generator_warmup", 4)
    assert back.rule == "applied"


def test_a_part_can_be_frozen_and_not_thawed() -> None:
    frozen = {"generator": PartSettings(frozen=True)}
    (change,) = found(optimizer__parts=frozen)
    assert (change.key, change.rule) == ("optimizer.parts.generator.frozen", "applied")
    before = Settings(recipe(optimizer__parts=frozen), JSON)
    with pytest.raises(UserError, match=r"optimizer\.parts\.generator\.frozen is false, the run has true"):
        changes(before, Settings(recipe(), JSON), "joint", 8)
    with pytest.raises(UserError, match=r"generator_head\.replicated is true, the run has false"):
        found(optimizer__parts={"generator_head": PartSettings(replicated=True)})
    # A part that is listed with nothing set is as one that is not.
    assert found(optimizer__parts={"generator": PartSettings()}) == []


def test_the_interval_of_saves_counts_where_draws_are_made_ahead() -> None:
    assert found(checkpoint__every=7) == []
    before, now = recipe(corruption__look_ahead=True), recipe(corruption__look_ahead=True, checkpoint__every=7)
    (change,) = changes(Settings(before, JSON), Settings(now, JSON), "joint", 8)
    assert change.key == "checkpoint.every"


def test_draws_from_before_are_of_no_use_with_another_sampler_or_other_masks() -> None:
    assert not draws_differ(found(optimizer__clip=2.0))
    assert draws_differ(found(corruption__sampler="electra"))
    assert draws_differ(found(data__mask_share=0.3))


def test_keys_of_the_deepspeed_json_are_compared_with_what_missing_ones_stand_for() -> None:
    def of_json(change: dict[str, Any]) -> list[Change]:
        content = copy.deepcopy(JSON)
        for section, values in change.items():
            content[section] = content.get(section, {}) | values if isinstance(values, dict) else values
        return changes(Settings(recipe(), JSON), Settings(recipe(), content), "joint", 8)

    assert of_json({"zero_optimization": {"contiguous_gradients": True}, "steps_per_print": 5}) == []
    (change,) = of_json({"gradient_clipping": 0.5})
    assert change.line(8) == "DeepSpeed JSON: gradient_clipping changed at step 8 from 0.0 to 0.5"
    with pytest.raises(UserError, match=r"DeepSpeed JSON: bf16\.enabled is true, the run has false"):
        of_json({"bf16": {"enabled": True}})
    with pytest.raises(UserError, match=r"DeepSpeed JSON: zero_optimization\.stage is 1, the run has 2"):
        of_json({"zero_optimization": {"stage": 1}})
    assert changes(Settings(recipe(), None), Settings(recipe(), JSON), "joint", 8) == []


def test_what_the_rate_does_is_said_for_more_steps_and_another_schedule() -> None:
    line = rate_line(recipe(), recipe(schedule__steps=30, schedule__warmup_steps=0), 18)
    assert line is not None
    assert "of step 19 jumps from 0 at the end of 18 steps to 0.0003: the schedule is made anew over 36 steps" in line
    line = rate_line(recipe(), recipe(optimizer__learning_rate=6e-4), 8)
    assert line is not None
    assert "of step 9 goes from" in line
