"""Settings that can't work are refused in one line that names the key, the value and what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_pipeline.config import BuildConfig, CleanConfig, SourceConfig, check_config, read_config_file
from data_pipeline.errors import UserError


def config(source: dict[str, Any] | None = None, clean: dict[str, Any] | None = None, **more: Any) -> BuildConfig:
    sources = [SourceConfig(**{"paths": ["a.txt"], **(source or {})})]
    return BuildConfig(**{"out": "store", "sources": sources, "clean": CleanConfig(**(clean or {})), **more})


def test_settings_that_work_are_taken() -> None:
    check_config(config())
    check_config(config(out="s3://bucket/prefix", memory=1 << 20))
    check_config(config(source={"paths": ["s3://bucket/raw/**/*.jsonl.gz", "~/x", "/a/*"], "label": "web"}))
    check_config(config(source={"label": "web"}, mixture={"web": 0.5}))
    check_config(config(clean={"near_duplicates": 0.8, "filters": ["words", "letters"], "language": "en"}))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"out": ""}, "out is ''"),
        ({"out": "s3://"}, "is not a bucket's name"),
        ({"out": "gs://bucket/x"}, "out is 'gs://bucket/x': it must be a folder or s3://bucket/prefix"),
        ({"memory": 1000}, "memory is 1000: it must be at least 1048576"),
        ({"mixture": {"wbe": 1.0, "web": 1.0}, "source": {"label": "web"}}, "'wbe': did you mean web?"),
        ({"mixture": {"main": 0.0}}, "mixture.main is 0.0: it must be above 0"),
        ({"mixture": {"main": float("nan")}}, "mixture.main is nan"),
        ({"source": {"label": " "}}, "sources[0].label is ' '"),
        ({"source": {"paths": [""]}}, "sources[0].paths is ''"),
        ({"source": {"paths": ["https://example.org/a.txt"]}}, "on this machine or below s3://bucket/"),
        ({"source": {"paths": ["s3:///a.txt"]}}, "is not a bucket's name"),
        ({"source": {"kind": "datasets", "name": "x"}}, "left out for kind datasets"),
        ({"source": {"kind": "wikipedia", "name": "x"}}, "left out for kind wikipedia"),
        ({"clean": {"near_duplicates": 1.0}}, "clean.near_duplicates is 1.0: it must be between 0 and 1"),
        ({"clean": {"near_duplicates": 0.0}}, "clean.near_duplicates is 0.0"),
        ({"clean": {"filters": ["word"]}}, "no filter is called 'word': did you mean words?"),
        ({"clean": {"filters": ["words", "words"]}}, "a list of different filters"),
        ({"clean": {"language": ""}}, "clean.language is ''"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as raised:
        check_config(config(**settings))
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_mixture_weighs_every_label() -> None:
    sources = [SourceConfig(paths=["a"], label="web"), SourceConfig(paths=["b"], label="books")]
    with pytest.raises(UserError, match="a weight for every label, 'books' too"):
        check_config(config(sources=sources, mixture={"web": 1.0}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mixture: [1]", "mixture must hold keys and values"),
        ("mixture: {web: a}", "mixture.web must be a number"),
        ("mixture: {web: true}", "mixture.web must be a number"),
        ("clean: {filters: words}", "clean.filters must be a list of strings, such as filters: [words"),
        ("clean: {filters: [1]}", "clean.filters must be a list of strings"),
        ("clean: {near_duplicate: 0.8}", "did you mean clean.near_duplicates?"),
        ("sources: [{kind: text, paths: s3://bucket/x}]", "sources[0].paths must be a list of strings"),
        ("sources: [{lable: web}]", "did you mean sources[0].label?"),
        ("sources: {kind: text}", "sources must be a list"),
        ("- 1", "must hold keys and values"),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "build.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        read_config_file(path)
    assert told in str(raised.value)
    assert str(path) in str(raised.value)
