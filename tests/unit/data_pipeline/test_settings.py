"""A key that is given twice in YAML is refused wherever YAML is read, and merge keys work."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.cli import main
from data_pipeline.config import BuildConfig, read_config_file
from data_pipeline.errors import UserError
from data_pipeline.settings import read_mapping, refuse_repeated_options
from electra_scale.recipe.parse import parse_recipe, pretrain_parser


@pytest.mark.parametrize(
    ("text", "key", "places"),
    [
        ("out: a\nheld_out: 0.1\nout: b\n", "out", "lines 1 and 3"),
        ("tokenizer:\n  vocab_size: 100\n  seed: 1\n  vocab_size: 200\n", "vocab_size", "lines 2 and 4"),
        ("sources:\n- kind: text\n  paths: [a]\n  kind: jsonl\n", "kind", "lines 2 and 4"),
        ("tokenizer: {seed: 1, seed: 2}\n", "seed", "line 1"),
        ("out: a\n'out': b\n", "out", "lines 1 and 2"),
        ("mixture:\n  yes: 1\n  true: 2\n", "true", "lines 2 and 3"),
        ("mixture: {1: 1, 0x1: 2}\n", "0x1", "line 1"),
        ('{"out": "a", "clean": {"min_chars": 1, "min_chars": 2}}', "min_chars", "line 1"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n  d: 1\n  d: 2\n", "d", "lines 4 and 5"),
        ("out: null\nout: null\n", "out", "lines 1 and 2"),
    ],
)
def test_a_key_given_twice_is_refused_with_both_lines(tmp_path: Path, text: str, key: str, places: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        read_mapping(path, f"file {path}")
    assert f"{path}: the key {key} is given twice, in {places}" in str(raised.value)


def test_merge_keys_bring_what_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    # The inner mapping is made after the outer one was, which has copied its keys by then.
    path.write_text("a:\n  b: &b {<<: &c {x: 1, y: 1}, x: 2}\nd: {<<: *b, y: 3}\ne: {<<: [*b, *c], z: 1}\n")
    assert read_mapping(path, "file") == {
        "a": {"b": {"x": 2, "y": 1}},
        "d": {"x": 2, "y": 3},
        "e": {"x": 2, "y": 1, "z": 1},
    }


def test_every_reader_of_yaml_refuses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = tmp_path / "build.yaml"
    build.write_text("out: a\nheld_out: 0.1\nheld_out: 0.2\n")
    with pytest.raises(UserError, match="the key held_out is given twice, in lines 2 and 3"):
        read_config_file(build)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optimizer:\n  clip: 1.0\n  clip: 2.0\n")
    with pytest.raises(UserError, match="the key clip is given twice, in lines 2 and 3"):
        parse_recipe(pretrain_parser(), ["--config", str(recipe)])
    inline = '[{"kind": "text", "paths": ["a"], "kind": "jsonl"}]'
    assert main(["build", "--out", "s", "--sources", inline]) == 2
    assert main(["build", "--out", "s", f"--sources={inline}"]) == 2
    assert capsys.readouterr().err.count("--sources: the key kind is given twice, in line 1") == 2
    with pytest.raises(UserError, match="--optimizer: the key clip is given twice"):
        parse_recipe(pretrain_parser(), ["--optimizer", "{clip: 1.0, clip: 2.0}"])


def test_a_file_for_one_section_is_read_and_its_keys_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "part.yaml"
    file.write_text("vocab_size: 60\nseed: 1\n")
    (tmp_path / "a.txt").write_text("One text.\n\nAnother text.\n")
    options = ["build", "--out", str(tmp_path / "s"), "--sources", f'[{{"paths": ["{tmp_path}/a.txt"]}}]']
    options += ["--held_out", "0", "--workers", "1", "--tokenizer"]
    assert main([*options, str(file)]) == 0
    file.write_text("vocab_size: 60\nseed: 1\nvocab_size: 70\n")
    assert main([*options, str(file)]) == 2
    assert f"--tokenizer {file}: the key vocab_size is given twice, in lines 1 and 3" in capsys.readouterr().err
    file.write_text("sequence_length: 64\nsequence_length: 128\n")
    with pytest.raises(UserError, match="the key sequence_length is given twice"):
        parse_recipe(pretrain_parser(), ["--data", str(file)])


def test_what_is_not_yaml_is_left_to_its_option() -> None:
    refuse_repeated_options(
        ["--run_dir", "runs/{a", "--note", "a\nb: [", "{", "--x={a: 1}", "--tokenizer", "/no/such"], BuildConfig
    )


@pytest.mark.parametrize("text", ["a: 2001-99-99", "a: [", "? [a]\n: b", "a: !!python/object:os.system x", "\0"])
def test_a_file_that_is_not_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="is not valid YAML") as raised:
        read_mapping(path, f"file {path}")
    assert "\n" not in str(raised.value)
