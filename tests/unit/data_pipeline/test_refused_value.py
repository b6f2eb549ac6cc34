"""A value that a setting cannot take is refused in the user's words, whatever the kind of setting."""

from __future__ import annotations

import pytest

from data_pipeline.cli import main as data_main
from electra_scale.cli import main

_CASES = {
    "--schedule.steps=1.5": "schedule.steps is 1.5; it must be a whole number",
    "--schedule.steps=[1,2]": "schedule.steps is [1, 2]; it must be a whole number",
    "--logging.tracker=5": "logging.tracker is 5; it must be trackio, wandb, mlflow or null",
    "--corruption.weight_clip=abc": "corruption.weight_clip is abc; it must be a number or null",
    "--model.unigram_bias=maybe": "model.unigram_bias is maybe; it must be true or false",
    "--optimizer.betas=3": "optimizer.betas is 3; it must be a list of 2 (a number, a number)",
    "--optimizer.parts=x": "optimizer.parts is x; it must be a mapping",
    "--model.discriminator.layers=x": "model.discriminator.layers is x; it must be a whole number",
    "--data.cache=/somewhere": "data.cache is /somewhere; it must be a mapping of folder, limit_gb, or the name of a "
    "YAML file with one; or set one of them, as in --data.cache.folder",
    "--batch=32": "batch is 32; it must be a mapping of global_batch, most_per_device, or the name of",
}


@pytest.mark.parametrize("option", _CASES)
def test_a_recipe_names_the_setting_the_value_and_what_it_may_be(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--config", "tiny", option]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert _CASES[option] in line


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--workers=a", "workers is a; it must be a whole number or null; see `electra-data build --help`"),
        ("--tokenizer=5", "tokenizer is 5; it must be a mapping of kind, path, lowercase, "),
        ("--sources=5", "sources is 5; it must be a list of which each entry is a mapping of kind, paths, "),
    ],
)
def test_a_build_does_so_too(option: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert data_main(["build", "--out", "store", option]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line


def test_what_is_not_about_a_value_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "tiny", "--data.store"]) == 2
    assert "argument --data.store: expected one argument" in capsys.readouterr().err
