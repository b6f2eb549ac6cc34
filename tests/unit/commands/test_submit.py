"""What ``electra-scale submit`` would hand to sbatch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from electra_scale.cli import main
from tests.support.fixtures.runs import RECIPE, ROOT

SCRIPTS = sorted((ROOT / "slurm").glob("*.sh"))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in a folder from which the checkout's scripts are seen as ``slurm/``."""
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "build.yaml").write_text("out: a store\nsources: [{kind: text, paths: [corpus]}]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "recipe.yaml"


def sbatch(folder: Path, environment: pytest.MonkeyPatch) -> Path:
    """An ``sbatch`` on the path that writes its arguments down, one a line, and gives ids from 1 on."""
    log = folder / "sbatch.log"
    tool = folder / "bin/sbatch"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "P=$SBATCH_PARTITION" "$@" -- >>{log}\ngrep -c "^--$" {log}\n')
    tool.chmod(0o755)
    environment.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    return log


def test_a_dry_run_prints_command_and_script_and_runs_nothing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = sbatch(tmp_path, monkeypatch)
    line = [
        "submit",
        "--dry-run",
        "--nodes",
        "2",
        "--partition",
        "gpu",
        "--time",
        "60",
        "--sbatch=--qos=low --exclusive",
    ]
    assert main([*line, "--config", "recipe.yaml", "--run_dir", "my run"]) == 0
    shown = capsys.readouterr().out
    command = "sbatch --parsable --nodes=2 --partition=gpu --time=60 --qos=low --exclusive slurm/pretrain.sh "
    assert command + "--config recipe.yaml --run_dir 'my run'" in shown
    assert (ROOT / "slurm/pretrain.sh").read_text() in shown
    assert not log.exists()


def test_what_a_dry_run_prints_is_what_a_submission_runs(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = sbatch(tmp_path, monkeypatch)
    monkeypatch.setenv("SBATCH_PARTITION", "gpu")
    line = ["--chain", "--build", "build.yaml", "--build-tasks", "9", "--export", "out", "--nodes", "2"]
    line += ["--account", "us", "--config", "recipe.yaml", "--run_dir", "my run"]
    assert main(["submit", *line]) == 0
    assert capfd.readouterr().out == "data: job 1\ntrain: job 2\nexport: job 3\n"
    ran = log.read_text()
    data, train, export, rest = (part.split("\n")[:-1] for part in ran.split("--\n"))
    after = ["--kill-on-invalid-dep=yes"]
    assert data == ["P=gpu", "--parsable", "--account=us", "--ntasks=9", "slurm/data.sh", "--config", "build.yaml"]
    assert train == [
        *["P=gpu", "--parsable", "--nodes=2", "--account=us", "--dependency=afterok:1", *after, "slurm/pretrain.sh"],
        *["--config", "recipe.yaml", "--run_dir", "my run", "--data.store", "a store"],
    ]
    assert export == [
        *["P=gpu", "--parsable", "--account=us", "--dependency=afterok:2", *after, "slurm/export.sh"],
        *["my run", "out"],
    ]
    assert rest == []
    log.unlink()
    assert main(["submit", "--dry-run", *line]) == 0
    commands = capfd.readouterr().out.split("\n###")[0]
    subprocess.run(["bash", "-c", commands], check=True)
    assert log.read_text() == ran


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--config", "nothing.yaml"], "nothing.yaml does not exist"),
        (["--config", "recipe.yaml", "--nodez", "2"], "nodez"),
        (["--chain", "--config", "recipe.yaml"], "--chain needs --build YAML and --export OUT"),
        (["--export", "out", "--config", "recipe.yaml"], "are for --chain"),
    ],
)
def test_what_would_be_refused_later_is_refused_now(
    recipe: Path, capsys: pytest.CaptureFixture[str], line: list[str], message: str
) -> None:
    assert main(["submit", "--dry-run", *line]) == 2
    assert message in capsys.readouterr().err


def test_the_shipped_scripts_serve_a_folder_without_any(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slurm").unlink()
    assert main(["submit", "--dry-run", "--config", "recipe.yaml"]) == 0
    shown = capsys.readouterr().out
    # SLURM starts a copy of the script, which finds the other scripts and the python by these variables.
    assert f"export ELECTRA_SLURM={ROOT}/slurm ELECTRA_PYTHON={sys.executable}\n" in shown
    assert f"sbatch --parsable {ROOT}/slurm/pretrain.sh --config recipe.yaml" in shown


def test_scripts_that_are_not_there_are_named(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELECTRA_SLURM", "elsewhere")
    assert main(["submit", "--dry-run", "--config", "recipe.yaml"]) == 2
    assert "elsewhere/pretrain.sh does not exist" in capsys.readouterr().err


def test_another_command_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "run", "out", "--nodes", "2"])
    assert "unrecognized arguments: --nodes 2" in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_bash_and_says_where_it_must_start(script: Path, tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if script.name == "lib.sh":
        return
    # SLURM starts a copy of it, in the folder where sbatch was called.
    result = subprocess.run(["bash", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "start sbatch in the folder that holds slurm/, or set ELECTRA_SLURM" in result.stderr
