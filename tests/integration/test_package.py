"""An installed package works outside the checkout: it has its recipes, DeepSpeed JSONs and batch scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest

from tests.support.fixtures.runs import ROOT, end

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of a new environment with the wheel, and with this environment's other packages."""
    folder = tmp_path_factory.mktemp("package")
    # A copy, so that the build sees what a clone has, and writes nothing into the checkout.
    names = ["data_pipeline", "electra_scale", "recipes", "ds_configs", "slurm"]
    for name in names:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    build = [*pip, "wheel", "--no-build-isolation", *offline, "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run(build, check=True)
    shutil.rmtree(folder / "source")
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    programs = folder / "venv/bin"
    subprocess.run([*pip, "--python", str(programs / "python"), "install", *offline, str(wheel)], check=True)
    # A .pth inside an added folder is not read, so this adds the packages without the editable install of the checkout.
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    launcher = (Path(sys.executable).parent / "deepspeed").read_text().split("\n", 1)[1]
    (programs / "deepspeed").write_text(f"#!{programs / 'python'}\n{launcher}")
    (programs / "deepspeed").chmod(0o755)
    return programs


def environment(programs: Path) -> dict[str, str]:
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    for name in ("PYTHONPATH", "ELECTRA_SLURM", "VIRTUAL_ENV"):
        variables.pop(name, None)
    return variables


def output(programs: Path, folder: Path, *command: str) -> str:
    """What a program of the new environment prints, started in a folder outside the checkout."""
    result = subprocess.run(
        [programs / command[0], *command[1:]], cwd=folder, env=environment(programs), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


def test_the_checkout_is_not_what_is_imported(installed: Path, tmp_path: Path) -> None:
    program = "import electra_scale, data_pipeline; print(electra_scale.__file__, data_pipeline.__file__)"
    for path in output(installed, tmp_path, "python", "-c", program).split():
        assert Path(path).is_relative_to(installed.parent)


def test_a_plan_needs_no_checkout(installed: Path, tmp_path: Path) -> None:
    assert "parameters" in output(installed, tmp_path, "electra-scale", "plan", "--config", "base")


def test_training_takes_a_shipped_recipe_by_name(installed: Path, tmp_path: Path) -> None:
    shown = output(installed, tmp_path, "python", "-m", "electra_scale.pretrain", "--config", "tiny", "--help")
    assert "--schedule.steps" in shown


def test_submit_has_its_batch_scripts(installed: Path, tmp_path: Path) -> None:
    line = ["electra-scale", "submit", "--dry-run", "--config", "base", "--data.store", "store"]
    shown = output(installed, tmp_path, *line)
    folder = next(installed.parent.glob("lib/python*/site-packages/electra_scale/shipped/slurm"))
    assert f"export ELECTRA_SLURM={folder} ELECTRA_PYTHON={installed / 'python'}\n" in shown
    assert f"{folder}/pretrain.sh --config base --data.store store" in shown


def test_the_demo_trains(installed: Path, tmp_path: Path, corpus: Path) -> None:
    command = [installed / "electra-scale", "demo", "--corpus", str(corpus)]
    log = tmp_path / "demo.log"
    with log.open("w") as file:
        demo = subprocess.Popen(
            command, cwd=tmp_path, env=environment(installed), stdout=file, stderr=file, start_new_session=True
        )
    try:
        metrics = tmp_path / "runs/demo/metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text().count("\n") >= 2):
            assert demo.poll() is None, log.read_text()[-2000:]
            time.sleep(0.2)
    finally:
        end(demo)
