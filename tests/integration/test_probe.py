"""The variance probe in a run and as a command: the same figures, and a run that does not notice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from electra_scale.cli import main
from tests.support.fixtures.metric_tags import PROBE_TAGS
from tests.support.fixtures.runs import RECIPE, ranks, rows, run, write_recipe

pytestmark = pytest.mark.slow

SAMPLES, DRAWS = RECIPE["logging"]["probe_samples"], RECIPE["logging"]["probe_draws"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, store: Path) -> tuple[Path, Path]:
    """A finished run on two ranks that probed itself and kept every checkpoint, and its recipe."""
    folder = tmp_path_factory.mktemp("probed")
    path = write_recipe(folder, store, **{"checkpoint.keep": 30})
    result = run(ranks(2, "--config", path, "--run_dir", folder / "run"), folder)
    assert (folder / "run/checkpoints/latest").is_file(), result.stdout + result.stderr
    return folder / "run", path


def test_a_run_probes_every_so_many_joint_steps_and_at_the_last(trained: tuple[Path, Path]) -> None:
    probed = [row for row in rows(trained[0]) if PROBE_TAGS[0] in row]
    assert [row["step"] for row in probed] == [11, 16, 18]
    assert all(row[tag] is not None for row in probed for tag in PROBE_TAGS)
    assert all(row["disc_loss_variance/draw_p"] > 0 for row in probed)


def test_training_is_the_same_without_probes(trained: tuple[Path, Path], tmp_path: Path) -> None:
    probed, recipe = trained
    command = ranks(2, "--config", recipe, "--run_dir", tmp_path / "run", "--logging.probe_every", "0")
    result = run(command, tmp_path)
    expected = [{name: value for name, value in row.items() if name not in PROBE_TAGS} for row in rows(probed)]
    assert rows(tmp_path / "run") == expected, result.stderr


def test_the_command_finds_in_a_checkpoint_what_the_run_logged(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    logged = {row["step"]: row for row in rows(folder)}
    for step, arguments in ((18, []), (16, ["--step", "16"])):
        assert main(["probe", str(folder), "--samples", str(SAMPLES), "--draws", str(DRAWS), *arguments]) == 0
        shown = capsys.readouterr().out
        found = json.loads((folder / f"probe/step-{step:08d}.json").read_text())
        figures = found["figures"]
        for tag, name in (
            ("disc_loss_variance/draw_p", "draw_p"),
            ("disc_loss_variance/draw_ratio", "draw_ratio"),
            ("disc_gradient_variance/draw_q", "gradient_q"),
            ("disc_gradient_variance/draw_ratio", "gradient_ratio"),
        ):
            assert figures[name] == pytest.approx(logged[step][tag], rel=1e-3), (step, tag)
        assert found["step"] == step
        assert found["sampler"] == "hp_loss"
        assert found["weight_power"] == 1
        assert found["other_objective"] == []
        assert found["split"] == "heldout"
        assert f"{SAMPLES} heldout samples" in shown
        assert f"{figures['draw_ratio']:.3f}" in shown
        table = shown.split("by frequency")[1].split("\n\n")[0]
        assert len(found["frequency"]) == len(table.splitlines()) - 2
    assert not [path.name for path in (folder / "probe").iterdir() if path.suffix != ".json"]


def test_an_oracle_that_was_stopped_resumes_with_the_rows_that_it_has(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    path = folder / "probe/oracle-00000018.json"

    def measured(samples: int, draws: int = 4) -> tuple[str, str]:
        assert main(["probe", str(folder), "--oracle", "6", "--samples", str(samples), "--draws", str(draws)]) == 0
        shown = capsys.readouterr()
        return shown.out, shown.err

    table, _ = measured(4)
    whole = path.read_text()
    assert {"the run's head", "true loss", "true gradient", "the best there is"} <= {
        line[:18].rstrip() for line in table.splitlines()
    }
    assert "4 heldout samples" in table
    # As it is after two rows.
    content = json.loads(whole)
    path.write_text(json.dumps({**content, "figures": None, "rows": content["rows"][:2]}))
    again, progress = measured(4)
    assert path.read_text() == whole
    assert again == table
    assert "oracle: 4 of 4 samples" in progress
    # Fewer samples are the first of them; other draws are other figures.
    assert "2 heldout samples" in measured(2)[0]
    assert len(json.loads(path.read_text())["rows"]) == 4
    assert "of other settings (draws 4 there, 5 now)" in measured(2, 5)[1]
    path.write_text("{")
    assert "cannot be read" in measured(1)[1]


def test_the_variance_is_split_into_text_masks_and_draws(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    assert main(["probe", str(folder), "--masks", "3", "--samples", "6", "--draws", "2"]) == 0
    shown = capsys.readouterr().out
    found = json.loads((folder / "probe/parts-00000018.json").read_text())
    assert (found["samples"], found["masks"], found["draws"], found["step"]) == (6, 3, 2, 18)
    lines = {line.split()[0]: line for line in shown.splitlines() if line}
    for name in ("text", "masks", "draws", "all"):
        assert f"{found['figures']['p'][name]['share']:.3f}" in lines[name]
        assert f"{found['figures']['q'][name]['share']:.3f}" in lines[name]
    assert f"{found['figures']['q']['draws']['ratio']:.3f}" in lines["draws"]


def test_the_command_refuses_what_it_cannot_do(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    for arguments, reason in (
        ([str(folder), "--step", "7"], "no checkpoint step-00000007"),
        ([str(folder), "--step", "4"], "generator warm-up"),
        ([str(folder), "--draws", "1"], "--draws"),
        ([str(folder), "--oracle", "0"], "--oracle"),
        ([str(folder), "--oracle", "5", "--draws", "3"], "--draws"),
        ([str(folder), "--masks", "1"], "--masks"),
        ([str(folder), "--masks", "2", "--draws", "1"], "--draws"),
        ([str(folder), "--store", str(tmp_path)], str(tmp_path)),
        ([str(tmp_path)], "not a run folder"),
    ):
        assert main(["probe", *arguments]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1
