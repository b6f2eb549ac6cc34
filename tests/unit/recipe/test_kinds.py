"""Methods are chosen by kind: their own settings are read and checked, and names of an earlier release still work."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from electra_scale.corruption.random import RandomSettings
from electra_scale.recipe.kinds import SEAMS, method_of, settings_class
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.recipe import Recipe


def parse(*arguments: object) -> Recipe:
    return parse_recipe(recipe_parser("test"), [str(argument) for argument in arguments])[0]


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(("section", "kind"), [(section, kind) for section, kinds in SEAMS.items() for kind in kinds])
def test_every_kind_has_settings_and_a_method(section: str, kind: str) -> None:
    settings = settings_class(section, kind)()
    assert settings.kind == kind
    assert settings.problems() == []
    assert callable(method_of(section, kind))


def test_the_first_kind_of_each_section_is_what_a_recipe_has_that_chooses_none() -> None:
    assert {section: getattr(Recipe(), section).kind for section in SEAMS} == {
        section: next(iter(kinds)) for section, kinds in SEAMS.items()
    }


@pytest.mark.parametrize("text", ["corruption: random", "corruption: {kind: random}"])
def test_a_kind_is_chosen_in_a_file_in_a_word_or_with_its_settings(tmp_path: Path, text: str) -> None:
    assert parse("--config", write(tmp_path, text)).corruption == RandomSettings()


@pytest.mark.parametrize(
    "arguments", [["--corruption", "random"], ["--corruption=random"], ["--corruption.kind", "random"]]
)
def test_a_kind_is_chosen_on_the_command_line(arguments: list[str]) -> None:
    assert parse(*arguments).corruption == RandomSettings()


def test_what_an_earlier_file_sets_for_another_kind_is_dropped(tmp_path: Path) -> None:
    first = write(tmp_path, "corruption: {sampler: hp_dist, mixture: 0.5}\nseed: 4", "first.yaml")
    second = write(tmp_path, "corruption: random", "second.yaml")
    recipe = parse("--config", first, "--config", second)
    assert (recipe.corruption, recipe.seed) == (RandomSettings(), 4)
    back = write(tmp_path, "corruption: {kind: generator, focal_gamma: 2.0}", "back.yaml")
    recipe = parse("--config", first, "--config", second, "--config", back)
    assert (recipe.corruption.sampler, recipe.corruption.focal_gamma) == ("hp_loss", 2.0)


def test_a_setting_of_another_kind_is_unknown(tmp_path: Path) -> None:
    path = write(tmp_path, "corruption: {kind: random, mixture: 0.5}")
    with pytest.raises(UserError, match=r"unknown key corruption\.mixture"):
        parse("--config", path)


@pytest.mark.parametrize("text", ["corruption: rnadom", "corruption: {kind: rnadom}"])
def test_an_unknown_kind_is_refused_naming_the_nearest(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"corruption\.kind is 'rnadom', .* did you mean random\?"):
        parse("--config", write(tmp_path, text))
    with pytest.raises(UserError, match=r"optimizer\.kind is 'x', .* known: adamw"):
        parse("--optimizer", "x")


@pytest.mark.parametrize(
    ("key", "value"), [("generator_warmup.steps", 5), ("logging.probe_every", 10), ("model.unigram_bias", "true")]
)
def test_what_needs_a_generator_is_refused_without_one(key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"{key} .*corruption\.kind random has no generator"):
        parse("--corruption", "random", f"--{key}", value)


def test_names_of_an_earlier_release_are_read_and_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write(tmp_path, "objective: {sampler: hp_dist, discriminator_weight: 30.0, head: {width: 8}}")
    recipe = parse("--config", old, "--objective.focal_gamma", 2, "--objective.discriminator_weight=40")
    assert (recipe.corruption.sampler, recipe.corruption.head.width, recipe.corruption.focal_gamma) == (
        "hp_dist",
        8,
        2.0,
    )
    assert recipe.task.discriminator_weight == 40.0
    (line,) = capsys.readouterr().err.splitlines()
    assert "objective as corruption" in line
    assert "objective.discriminator_weight as task.discriminator_weight" in line


@pytest.mark.parametrize(("old", "new"), [("false", 0.0), ("true", 1.0), ("null", None)])
def test_weights_that_were_on_or_off_are_read_as_their_power(
    old: str, new: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, f"corruption: {{importance_weights: {old}}}")
    for given in (
        ("--config", file),
        ("--config", write(tmp_path, f"objective: {{importance_weights: {old}}}")),
        ("--corruption.importance_weights", old),
        (f"--objective.importance_weights={old}",),
    ):
        assert parse(*given).corruption.weight_power == new
        (line,) = capsys.readouterr().err.splitlines()
        assert "corruption.importance_weights as corruption.weight_power" in line
    with pytest.raises(UserError, match=r"importance_weights is 0\.5; .* corruption\.weight_power today"):
        parse("--corruption.importance_weights", "0.5")


def test_an_old_name_beside_the_new_one_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "objective: {mixture: 0.2}\ncorruption: {mixture: 0.3}")
    with pytest.raises(UserError, match=r"corruption\.mixture is there twice"):
        parse("--config", path)


def test_settings_of_parts_are_read_and_their_keys_checked(tmp_path: Path) -> None:
    recipe = parse("--config", write(tmp_path, "optimizer: {parts: {generator: {frozen: true}}}"))
    assert recipe.optimizer.parts["generator"].frozen
    with pytest.raises(UserError, match=r"unknown key optimizer\.parts\.generator\.forzen; did you mean .*frozen"):
        parse("--config", write(tmp_path, "optimizer: {parts: {generator: {forzen: true}}}"))


def test_help_shows_the_settings_of_each_section_and_the_kinds() -> None:
    text = recipe_parser("test").format_help()
    for section in SEAMS:
        for field in dataclasses.fields(settings_class(section, next(iter(SEAMS[section])))):
            assert f"--{section}.{field.name}" in text
    assert "corruption: generator, random" in text


def test_reading_a_recipe_imports_no_torch() -> None:
    program = (
        "import sys\n"
        "from electra_scale.recipe.parse import parse_recipe, recipe_parser\n"
        "parse_recipe(recipe_parser('test'), ['--config', 'base', '--config', 'faithful'])\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
