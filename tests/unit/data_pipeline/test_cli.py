"""The command says what is wrong in one line and means it with its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from data_pipeline.cli import main
from data_pipeline.places.open import open_place
from data_pipeline.store.manifest import load_manifest


@pytest.fixture
def file(tmp_path: Path, jsonl: Path) -> Path:
    path = tmp_path / "build.yaml"
    settings = {
        "out": str(tmp_path / "made"),
        "sources": [{"kind": "jsonl", "paths": [str(jsonl)]}],
        "tokenizer": {"vocab_size": 200},
        "held_out": 0.1,
        "workers": 1,
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("electra-data: error: ")
    return lines[0]


def test_build_inspect_and_verify(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "made")
    assert main(["build", "--config", str(file), "--tokenizer.vocab_size", "150"]) == 0
    assert load_manifest(open_place(store)).tokenizer.vocab_size == 150
    capsys.readouterr()
    assert main(["inspect", store, "--samples", "2"]) == 0
    shown = capsys.readouterr().out
    assert load_manifest(open_place(store)).fingerprint in shown
    assert "sample 2" in shown
    assert "story" in shown
    assert main(["verify", store]) == 0


def test_an_unknown_key_is_named_with_the_nearest_one(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = file.read_text()
    for old, new, expected in (
        ("held_out", "heldout", f"{file}: unknown key heldout; did you mean held_out?"),
        ("vocab_size", "vocabsize", f"{file}: unknown key tokenizer.vocabsize; did you mean tokenizer.vocab_size?"),
        ("kind", "knd", f"{file}: unknown key sources[0].knd; did you mean sources[0].kind?"),
    ):
        file.write_text(text.replace(old, new))
        assert expected in error_line(capsys, "build", "--config", str(file))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--held_outt", "0.1"], "unknown option --held_outt: did you mean --held_out?"),
        (["--held_out", "abc"], "held_out"),
        (["--held_out", "1.5"], "held_out is 1.5: it must be at least 0 and below 1"),
        (["--workers", "0"], "workers is 0: it must be at least 1"),
        (["--clean.unicode", "NFX"], "clean.unicode"),
        (["--ids_type", "uint8"], "ids_type"),
    ],
)
def test_wrong_values_are_refused_in_one_line(
    file: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    assert expected in error_line(capsys, "build", "--config", str(file), *options)


def test_wrong_files_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "build.yaml"
    assert f"{path} does not exist" in error_line(capsys, "build", "--config", str(path))
    for text, expected in (
        ("- a", "must hold keys and values"),
        ("a: [", "is not valid YAML"),
        ("out: x", "sources is []"),
        ("out: x\nsources: {kind: text}", "sources must be a list"),
        ("out: x\nsources: [{kind: text, paths: a.txt}]", "must be a list of strings"),
        ("out: x\nsources: [{kind: texts, paths: [a]}]", "kind"),
        ("out: x\nsources: [{kind: text, paths: [/no/such]}]", "matches no file"),
        ("out: x\nsources: [{kind: datasets, paths: [a], name: b}]", "left out for kind datasets"),
    ):
        path.write_text(text)
        assert expected in error_line(capsys, "build", "--config", str(path))
    assert "no store at" in error_line(capsys, "verify", str(tmp_path / "nowhere"))
    assert "unfinished build or not a store" in error_line(capsys, "inspect", str(tmp_path))


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["build", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--tokenizer.sample_bytes", "--clean.deduplicate", "--held_out", "--workers", "--engine"):
        assert option in shown
    assert "every core" not in shown
    assert "one per core when left out" in " ".join(shown.split())


def test_verify_names_the_shard_with_a_flipped_byte(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = load_manifest(open_place(store)).shards[1].name
    data = bytearray((store / name).read_bytes())
    data[len(data) // 2] ^= 1
    (store / name).write_bytes(data)
    assert main(["verify", str(store)]) == 1
    assert f"{name}: wrong checksum" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tokenizer/vocab.txt", "tokenizer/tokenizer.json", "token_counts.npy"])
def test_verify_checks_everything_else_too(store: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open(store / name, "ab") as file:
        file.write(b" ")
    assert main(["verify", str(store)]) == 1
    assert f"{name}: wrong checksum" in capsys.readouterr().err
    (store / name).unlink()
    assert main(["verify", str(store)]) == 1
    assert f"{name}: missing" in capsys.readouterr().err
