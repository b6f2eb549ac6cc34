"""The recipe: read as written, refused in one line where it can't be right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_pipeline.errors import UserError
from electra_scale.recipe.deepspeed_json import chosen_json
from electra_scale.recipe.model import EncoderSize
from electra_scale.recipe.parse import parse_recipe, pretrain_parser, recipe_of_run, recipe_parser, recipe_to_dict
from electra_scale.recipe.recipe import Recipe

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("**/*.yaml"))
Write = Callable[[Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a recipe file, from values or as text."""

    def write_recipe(content: Any) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write_recipe


def parse(*arguments: object) -> Recipe:
    return parse_recipe(recipe_parser("test"), [str(argument) for argument in arguments])[0]


def refused(*arguments: object) -> str:
    with pytest.raises(UserError) as refusal:
        parse(*arguments)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_an_empty_recipe_is_the_default(write: Write) -> None:
    assert parse() == parse("--config", write({})) == Recipe()
    assert Recipe().problems() == []


def test_values_of_a_file_are_read_and_the_others_keep_their_default(write: Write) -> None:
    content = {
        "seed": 5,
        "model": {"generator": {"layers": 3, "hidden": 32, "ffn": 64, "heads": 2}, "dropout": 0},
        "corruption": {"sampler": "hp_dist", "weight_power": 0.5, "head": {"own_token": False}},
        "optimizer": {"betas": [0.9, 0.98], "learning_rate": "1e-3"},
    }
    recipe = parse("--config", write(content))
    expected = Recipe(seed=5)
    expected.model.generator = EncoderSize(3, 32, 64, 2)
    expected.model.dropout = 0.0
    expected.corruption.sampler = "hp_dist"
    expected.corruption.weight_power = 0.5
    expected.corruption.head.own_token = False
    expected.optimizer.betas = (0.9, 0.98)
    expected.optimizer.learning_rate = 1e-3
    assert recipe == expected


def test_options_override_the_file(write: Write) -> None:
    path = write({"data": {"sequence_length": 64, "mask_share": 0.2}, "corruption": {"focal_gamma": 2.0}})
    recipe = parse(
        *("--config", path, "--data.sequence_length", 32, "--corruption.head.own_token", "false"),
        *("--model.discriminator.layers", 3, "--run_dir=elsewhere", "--corruption.weight_power", "null"),
    )
    assert recipe.data.sequence_length == 32
    assert recipe.data.mask_share == 0.2
    assert recipe.corruption.focal_gamma == 2.0
    assert recipe.corruption.head.own_token is False
    assert recipe.corruption.weight_power is None
    assert recipe.model.discriminator == dataclasses.replace(Recipe().model.discriminator, layers=3)
    assert recipe.run_dir == "elsewhere"


@pytest.fixture
def base_and_arm(tmp_path: Path) -> tuple[Path, Path]:
    """A whole recipe, and one that names a few keys at several depths."""
    base, arm = tmp_path / "base.yaml", tmp_path / "arm.yaml"
    base.write_text(
        "seed: 5\n"
        "data: {sequence_length: 64}\n"
        "model: {discriminator: {layers: 3, hidden: 128, ffn: 512, heads: 4}}\n"
        "corruption: {focal_gamma: 1.0, head: {width: 16, own_token: false}}\n"
    )
    arm.write_text("seed: 6\nmodel: {discriminator: {layers: 5}}\ncorruption: {head: {width: 32}}\n")
    return base, arm


def test_a_later_file_overrides_the_keys_that_it_names_and_no_others(base_and_arm: tuple[Path, Path]) -> None:
    base, arm = base_and_arm
    expected = parse("--config", base)
    expected.seed = 6
    expected.model.discriminator = dataclasses.replace(expected.model.discriminator, layers=5)
    expected.corruption.head.width = 32
    assert parse("--config", base, "--config", arm) == expected
    assert expected.corruption.head.own_token is False


def test_files_and_options_override_in_the_order_of_the_command_line(base_and_arm: tuple[Path, Path]) -> None:
    base, arm = base_and_arm
    assert parse("--config", arm, "--config", base).seed == 5
    assert parse("--config", base, f"--config={arm}", "--seed", 7).seed == 7
    assert parse("--config", base, "--seed", 7, "--config", arm).seed == 6
    assert parse("--config", base, "--corruption.head.width", 8, "--config", arm).corruption.head.width == 32


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_unknown_key_is_refused_in_each_of_several_files(
    base_and_arm: tuple[Path, Path], tmp_path: Path, place: int
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("corruption: {head: {widht: 8}}\n")
    files = [*base_and_arm]
    files.insert(place, wrong)
    text = refused(*(part for file in files for part in ("--config", file)))
    assert f"recipe {wrong}: unknown key corruption.head.widht; did you mean corruption.head.width?" in text


@pytest.mark.parametrize(
    ("content", "key", "near"),
    [
        ({"data": {"sequence_lenght": 64}}, "data.sequence_lenght", "data.sequence_length"),
        ({"corruptio": {}}, "corruptio", "corruption"),
        ({"corruption": {"head": {"own_tokens": True}}}, "corruption.head.own_tokens", "corruption.head.own_token"),
        ({"model": {"generator": {"layer": 2}}}, "model.generator.layer", "model.generator.layers"),
    ],
)
def test_an_unknown_key_is_refused_naming_file_key_and_the_nearest(
    write: Write, content: dict[str, Any], key: str, near: str
) -> None:
    path = write(content)
    text = refused("--config", path)
    assert str(path) in text
    assert f"unknown key {key};" in text
    assert f"did you mean {near}?" in text


def test_an_unknown_key_like_no_other_gets_the_known_ones(write: Write) -> None:
    text = refused("--config", write({"batch": {"zzzz": 1}}))
    assert "batch.zzzz" in text
    assert "global_batch, most_per_device" in text


@pytest.mark.parametrize(
    "option", ["--data.sequence_lenght", "--nothing", "--data.sequence_len", "--corruption.importance"]
)
def test_an_unknown_option_is_refused_also_where_it_begins_like_a_known_one(option: str) -> None:
    assert option in refused(option, "64")


@pytest.mark.parametrize(
    ("content", "key", "value"),
    [
        ({"data": {"sequence_length": "long"}}, "data.sequence_length", "long"),
        ({"data": {"sequence_length": 64.5}}, "data.sequence_length", "64.5"),
        ({"data": 5}, "data", "5"),
        ({"data": None}, "data", "None"),
        ({"run_dir": 5}, "run_dir", "5"),
        ({"corruption": {"sampler": "hp_los"}}, "corruption.sampler", "hp_los"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas", "[0.9]"),
        ({"corruption": {"head": {"own_token": 3}}}, "corruption.head.own_token", "3"),
    ],
)
def test_a_wrong_type_is_refused_naming_key_and_value(
    write: Write, content: dict[str, Any], key: str, value: str
) -> None:
    text = refused("--config", write(content))
    assert key in text
    assert value in text


def test_a_wrong_type_on_the_command_line_is_refused_too() -> None:
    text = refused("--batch.global_batch", "many")
    assert "batch.global_batch" in text
    assert "many" in text


@pytest.mark.parametrize("form", ["--config {}", "--config={}"])
def test_a_missing_file_is_named(tmp_path: Path, form: str) -> None:
    path = tmp_path / "nowhere.yaml"
    assert f"recipe {path} does not exist" in refused(*form.format(path).split(" "))


@pytest.mark.parametrize("content", ["data: [", "", "- a\n- b", "just text"])
def test_a_file_that_is_no_recipe_is_named(write: Write, content: str) -> None:
    path = write(content)
    assert str(path) in refused("--config", path)


def test_a_file_of_bytes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert str(path) in refused("--config", path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.sequence_length", 7),
        ("data.streams", 0),
        ("data.shuffle_window", 0),
        ("data.packing_window", 0),
        ("data.prefetch_threads", -1),
        ("data.prefetch_shards", -1),
        ("data.give_up_minutes", -1),
        ("data.give_up_minutes", ".nan"),
        ("data.cache.limit_gb", 0),
        ("data.cache.limit_gb", ".inf"),
        ("data.mixture", "{web: 0}"),
        ("data.mask_share", 0),
        ("data.mask_share", 1),
        ("data.mask_token_share", 1.01),
        ("batch.global_batch", 0),
        ("batch.most_per_device", 0),
        ("schedule.steps", 0),
        ("schedule.warmup_steps", -1),
        ("generator_warmup.steps", -1),
        ("generator_warmup.warmup_steps", -1),
        ("generator_warmup.mask_share", 1.5),
        ("generator_warmup.learning_rate", 0),
        ("checkpoint.every", 0),
        ("checkpoint.keep", 0),
        ("checkpoint.keep_every", -1),
        ("checkpoint.upload", "s3://"),
        ("checkpoint.upload", "gs://bucket/run"),
        ("checkpoint.upload", "runs/run"),
        ("checkpoint.upload", "runs/run/copy"),
        ("checkpoint.upload", "runs"),
        ("logging.every", 0),
        ("logging.evaluate_every", 0),
        ("logging.evaluate_samples", 0),
        ("logging.probe_every", -1),
        ("logging.probe_samples", 0),
        ("logging.probe_draws", 1),
        ("logging.peak_tflops", 0),
        ("optimizer.learning_rate", -1),
        ("optimizer.learning_rate", ".nan"),
        ("optimizer.betas", "[0.9, 1.0]"),
        ("optimizer.generator_rate", 0),
        ("optimizer.generator_rate", -1),
        ("optimizer.eps", 0),
        ("optimizer.weight_decay", -0.1),
        ("optimizer.clip", -1),
        ("model.dropout", 1),
        ("model.attention_dropout", -0.1),
        ("model.embedding", 0),
        ("model.init_std", 0),
        ("corruption.temperature", 0),
        ("corruption.mixture", 2),
        ("corruption.focal_gamma", -1),
        ("corruption.head.floor", 0),
    ],
)
def test_an_impossible_value_is_refused_before_anything_starts(key: str, value: object) -> None:
    assert key in refused(f"--{key}", value)


def test_all_impossible_values_are_named_at_once(write: Write) -> None:
    text = refused("--config", write({"batch": {"global_batch": 0}, "corruption": {"mixture": 2}}))
    assert "batch.global_batch is 0" in text
    assert "corruption.mixture is 2" in text


def test_samples_longer_than_the_position_table_are_refused_naming_both() -> None:
    text = refused("--data.sequence_length", 128, "--model.max_positions", 64)
    assert "data.sequence_length is 128" in text
    assert "model.max_positions only 64" in text


def test_checkpoints_to_keep_that_are_never_saved_are_refused_naming_what_would_work() -> None:
    text = refused("--checkpoint.every", 400, "--checkpoint.keep_every", 1000)
    assert "checkpoint.keep_every is 1000, which is not a multiple of checkpoint.every (400)" in text
    assert "1200 would work" in text


FROM_GENERATOR = ("--generator_warmup.discriminator_from_generator", "true")
EQUAL = ("--model.generator", "{layers: 12, hidden: 256, ffn: 1024, heads: 4}")


@pytest.mark.parametrize("name", ["layers", "hidden", "ffn", "heads"])
def test_a_discriminator_does_not_start_from_a_generator_of_another_size(name: str) -> None:
    text = refused(*FROM_GENERATOR, "--generator_warmup.steps", 5, *EQUAL, f"--model.generator.{name}", 16)
    ours = "model.discriminator has layers 12, hidden 256, ffn 1024, heads 4"
    assert ours in text
    assert f"{name} 16" in text.partition(ours)[2]


def test_a_discriminator_does_not_start_from_a_generator_that_is_not_warmed_up() -> None:
    assert "generator_warmup.steps is 0" in refused(*FROM_GENERATOR, *EQUAL)
    without = ("--corruption", "random", "--logging.probe_every", 0, "--generator_warmup.steps", 0)
    assert "corruption.kind random has no generator to start from" in refused(*FROM_GENERATOR, *without)
    assert parse(*FROM_GENERATOR, *EQUAL, "--generator_warmup.steps", 1).generator_warmup.discriminator_from_generator


def test_heads_start_with_neighbours_only_where_they_read_the_embeddings_as_they_are() -> None:
    start = ("--model.position_init", "neighbours")
    text = refused(*start)
    assert "model.discriminator.hidden is 256 and model.embedding 128" in text
    assert "model.generator.hidden is 64 and" in text
    wide = (*start, "--model.embedding", 256)
    assert "model.discriminator" not in refused(*wide)
    assert parse(*wide, "--corruption", "random", "--logging.probe_every", 0).model.position_init == "neighbours"


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    text = refused("--model.generator.hidden", 64, "--model.generator.heads", 3)
    assert "64" in text
    assert "heads 3" in text


def test_total_steps_are_those_of_both_phases() -> None:
    assert parse("--schedule.steps", 30, "--generator_warmup.steps", 12).total_steps == 42


def test_help_explains_every_setting() -> None:
    text = " ".join(recipe_parser("test").format_help().split())
    for explained in ("Positions S of a sample", "Focal exponent", "Largest norm of the global gradient", "heads"):
        assert explained in text

    def settings(of: Any, prefix: str) -> list[str]:
        names = []
        for part in dataclasses.fields(of):
            value = getattr(of, part.name)
            name = f"{prefix}{part.name}"
            names += settings(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
        return names

    for name in settings(Recipe(), ""):
        assert f"--{name} " in text


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipes_are_possible(path: Path) -> None:
    recipe = parse("--config", path)
    assert all((ROOT / chosen_json(recipe.deepspeed, bf16)).is_file() for bf16 in (False, True))
    assert recipe.networks(30522).vocab_size == 30522


def test_there_are_shipped_recipes() -> None:
    assert "tiny.yaml" in [path.name for path in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_recipe_of_a_run_is_the_one_it_began_with(path: Path, tmp_path: Path) -> None:
    recipe = parse("--config", path, "--optimizer.betas", "[0.8, 0.97]", "--corruption.weight_power", "0.25")
    written = tmp_path / "recipe.yaml"
    written.write_text(yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False))
    assert recipe_of_run(written) == recipe


def test_unset_values_survive_the_round_trip(tmp_path: Path) -> None:
    recipe = Recipe()
    assert recipe.corruption.weight_power is None
    assert recipe.model.init_from is None
    assert recipe.logging.peak_tflops is None
    written = tmp_path / "recipe.yaml"
    written.write_text(yaml.safe_dump(recipe_to_dict(recipe)))
    assert recipe_of_run(written) == recipe


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} is not a run folder"):
        recipe_of_run(tmp_path / "recipe.yaml")


def test_a_key_without_a_value_is_refused_unless_it_may_be_empty(write: Write) -> None:
    message = refused("--config", write("schedule:\n  steps:\nmodel: {init_from: null}\nlogging:\n  every: null\n"))
    assert "the recipe gives no value to schedule.steps, logging.every" in message


@pytest.mark.parametrize(
    "name",
    ["r[1]", "[1]", "{a: b}", "#x", "null", "~", "123", "1e5", "true", "a: b", "%d", "new\nline", " x "],
)
def test_a_folder_keeps_its_name_through_options_and_recipe_files(name: str, tmp_path: Path) -> None:
    options = [f"--run_dir={name}", f"--data.store={name}", f"--checkpoint.upload=x{name}"]
    recipe, _ = parse_recipe(pretrain_parser(), ["--config", "tiny", *options])
    assert (recipe.run_dir, recipe.data.store, recipe.checkpoint.upload) == (name, name, f"x{name}")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(recipe)))
    assert recipe_of_run(path) == recipe
