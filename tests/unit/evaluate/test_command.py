"""The command: models side by side in one table, a file for each, and one line with exit code 2 for what can't be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from electra_scale.cli import main
from electra_scale.evaluate.scores import Evaluation, Score, table
from electra_scale.export.named_model import NamedModel
from tests.unit.evaluate.test_minimal_pairs import blimp
from tests.unit.evaluate.test_tokens import DOCUMENTS


def test_models_stand_side_by_side_and_each_has_its_files(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "text.txt").write_text("\n\n".join(DOCUMENTS))
    export = str(folders["discriminator"].parent)
    code = main(
        [
            *("evaluate", "--model", export, f"random:{export}", "--out", str(tmp_path / "out")),
            *("--minimal-pairs", str(blimp(tmp_path / "pairs")), "--pairs-by", "discriminator", "generator"),
            *("--replaced-tokens", str(tmp_path / "text.txt"), "--generator", export, "--passages", "4"),
        ]
    )
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [export, f"random:{export}", "chance", "of"]
    assert [line.split("  ")[0] for line in lines if line.startswith(("minimal_pairs", "replaced_auc"))] == [
        "minimal_pairs (discriminator)",
        "minimal_pairs (generator)",
        "replaced_auc (discriminator)",
    ]
    files = sorted((tmp_path / "out").rglob("*.json"))
    assert [line.removeprefix("written: ") for line in lines if line.startswith("written: ")] == [
        str(tmp_path / "out" / folder / name)
        for folder in (export.strip("/").replace("/", "-"), f"random{export.replace('/', '-')}")
        for name in (
            "minimal_pairs-model.json",
            "minimal_pairs-generator-model.json",
            f"replaced_tokens-{export.strip('/').replace('/', '-')}-model.json",
        )
    ]
    assert len(files) == 6
    content = [json.loads(file.read_text()) for file in files]
    assert {(one["model"], one["random"]) for one in content} == {(export, False), (f"random:{export}", True)}
    for one in content:
        assert list(one) == ["version", "model", "step", "random", "probe", "by", "settings", "scores"]
        assert one["step"] is None
        assert all(list(score) == ["name", "value", "error", "count", "chance"] for score in one["scores"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "nothing to evaluate; give at least one of --pairs, --minimal-pairs"),
        (["--replaced-tokens", "text"], "--replaced-tokens needs --generator NAME"),
        (["--pairs", "--generator", "g"], "--generator is given without --replaced-tokens"),
        (["--masked-tokens", "text", "--store", "s"], "--store is given without --pairs"),
        (["--pairs", "--count", "0"], "--count is 0"),
        (["--pairs"], "no --model is a run folder, whose store could be read"),
        (["--pairs", "--store", "nowhere"], "no store at nowhere"),
        (["--pairs", "--step", "3"], "--step is 3, but no --model is a run folder"),
        (["--masked-tokens", "nowhere"], "cannot read nowhere"),
        (["--masked-tokens", "nowhere", "--mask-share", "2"], "--mask-share is 2.0"),
        (["--minimal-pairs", "nowhere"], "nowhere does not exist"),
        (["--linear", "nowhere"], "there is no such folder"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(
    options: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--model", "no-model", *options]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("electra-scale: error: ")
    assert reason in error
    assert "\n" not in error


def test_a_model_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--model", "a", "a", "--pairs", "--store", "s"]) == 2
    assert "--model names a twice" in capsys.readouterr().err


def test_a_score_that_is_not_a_number_is_null_in_the_file_and_a_dash_in_the_table(tmp_path: Path) -> None:
    model = NamedModel("m", tmp_path, run=tmp_path / "run", step=7)
    one = Evaluation(
        model, "pairs", "discriminator", [Score("a", float("nan"), float("nan"), 0, 0.5), Score("b", 0.25)]
    )
    assert one.write() == tmp_path / "run/evaluation/pairs-7.json"
    assert [score["value"] for score in json.loads(one.path().read_text())["scores"]] == [None, 0.25]
    assert [line.split() for line in table([one]).splitlines()] == [
        ["m", "@", "7", "chance", "of"],
        ["a", "(discriminator)", "-", "0.500", "0"],
        ["b", "(discriminator)", "0.250"],
    ]


def test_random_weights_do_not_replace_the_results_of_trained_ones(tmp_path: Path) -> None:
    trained = NamedModel("run", tmp_path, run=tmp_path / "run", step=7)
    drawn = NamedModel("random:run", tmp_path, run=tmp_path / "run", step=7, random=True)
    hub = NamedModel("random:name/of-hub", tmp_path, random=True)
    paths = [Evaluation(model, "pairs", "discriminator", []).path() for model in (trained, drawn, hub)]
    assert paths == [
        tmp_path / "run/evaluation/pairs-7.json",
        tmp_path / "run/evaluation/random/pairs-7.json",
        Path("runs/evaluation/name-of-hub/random/pairs-model.json"),
    ]
