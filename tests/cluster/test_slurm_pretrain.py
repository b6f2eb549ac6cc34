"""The batch scripts on a real SLURM with two nodes: to the end, through time limits, requeues and a lost node."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from electra_scale.train.checkpoint import state as checkpoint
from tests.support.fixtures.runs import RECIPE, ROOT, environment, rows
from tests.support.fixtures.slurm import SlurmCluster
from tests.support.waiting import row_count

pytestmark = pytest.mark.slow

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
FROZEN_AT = 9
"""Rows of metrics after which the first start of a run hangs in mid-step, so that a test can act at that moment."""

# In the process of rank 1: a rank that hangs keeps the other one waiting in the step's collective.
_FREEZE = """
import glob, os, signal, threading, time

def freeze():
    while True:
        try:
            with open(os.environ["FREEZE"] + "/metrics.jsonl") as file:
                if file.read().count("\\n") >= {rows}:
                    break
            if glob.glob(os.environ["FREEZE"] + "/stop-*"):
                return
        except FileNotFoundError:
            pass
        time.sleep(0.002)
    with open(os.environ["FREEZE"] + "/frozen.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(os.environ["FREEZE"] + "/frozen.new", os.environ["FREEZE"] + "/frozen")
    os.kill(os.getpid(), signal.SIGSTOP)

step = (os.environ.get("SLURM_PROCID"), os.environ.get("SLURM_STEP_NUM_TASKS"))
if step == ("1", "2") and "FREEZE" in os.environ and "SLURM_RESTART_COUNT" not in os.environ:
    threading.Thread(target=freeze, daemon=True).start()
"""


@dataclass
class Site:
    """A cluster with a folder to submit from, a recipe there, and a run of it that nothing has disturbed."""

    cluster: SlurmCluster
    folder: Path
    variables: dict[str, str]

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def straight(self) -> Path:
        return self.folder / "straight"

    def submit(self, run: Path, *options: str, arguments: Sequence[str] = (), **variables: str) -> str:
        """sbatch slurm/pretrain.sh on both nodes; the job's number."""
        command = ["sbatch", "--parsable", "--nodes=2", f"--output={run}.log", *options, "slurm/pretrain.sh"]
        command += ["--config", str(self.recipe), "--run_dir", str(run), *arguments]
        result = self.cluster.run(*command, cwd=self.folder, **{**self.variables, **variables})
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def freezing(self, run: Path) -> dict[str, str]:
        """Variables with which the first start of a run hangs in mid-step."""
        site = self.folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(_FREEZE.format(rows=FROZEN_AT))
        return {"FREEZE": str(run), "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}

    def until(self, condition: Callable[[], bool], run: Path, seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.logs(run)
            time.sleep(0.1)

    def until_frozen(self, run: Path) -> int:
        """Wait for the process that hangs; its id."""
        self.until((run / "frozen").is_file, run)
        return int((run / "frozen").read_text())

    def ended(self, job: str, run: Path) -> dict[str, str]:
        """The job once it has ended for good."""
        self.until(lambda: self.cluster.job(job)["JobState"] in ENDED, run)
        return self.cluster.job(job)

    def logs(self, run: Path) -> str:
        log = run.with_name(f"{run.name}.log")
        return (log.read_text()[-4000:] if log.is_file() else "no log") + self.cluster.logs()

    def ends_like_straight(self, job: str, run: Path, starts: int = 2) -> None:
        """Check that the run has ended like the undisturbed one, bit for bit, after ``starts`` of its job."""
        shown = self.ended(job, run)
        assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", str(starts - 1)), self.logs(run)
        assert rows(run) == rows(self.straight)


@pytest.fixture(scope="module")
def site(slurm: SlurmCluster, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Text, store, training and export of the undisturbed run come from one ``electra-scale submit --chain``."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "slurm").symlink_to(ROOT / "slurm")
    recipe = json.loads(json.dumps(RECIPE))
    recipe["data"]["store"] = str(folder / "store")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    build = {
        "out": str(folder / "store"),
        "sources": [{"kind": "jsonl", "paths": [str(corpus / "docs.jsonl")]}],
        "tokenizer": {"vocab_size": 800},
        "held_out": 0.05,
        "task_bytes": 200_000,
    }
    (folder / "build.yaml").write_text(yaml.safe_dump(build))
    variables = {name: environment()[name] for name in ("DS_ACCELERATOR", "OMP_NUM_THREADS", "PYTHONPATH")}
    variables |= {"PYTHON": sys.executable, "NETWORK_INTERFACE": "lo", "SBATCH_TIMELIMIT": "30"}
    # The chain goes through the gate; the other runs are about what comes after it.
    site = Site(slurm, folder, variables | {"GATE": "no"})
    command = [sys.executable, "-m", "electra_scale.cli", "submit", "--chain", "--build", "build.yaml"]
    command += ["--build-tasks", "2", "--export", str(folder / "encoder"), "--nodes", "2"]
    command += ["--config", str(site.recipe), "--run_dir", str(site.straight)]
    result = slurm.run(*command, timeout=300, cwd=folder, **variables)
    assert result.returncode == 0, result.stderr
    jobs = [line.split()[-1] for line in result.stdout.splitlines()]
    assert len(jobs) == 3
    for job in jobs:
        shown = site.ended(job, folder / "chain")
        logs = [path.read_text()[-3000:] for path in sorted(folder.glob("electra-*.log"))]
        assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "0"), logs
    return site


def test_a_chain_builds_trains_on_two_nodes_to_the_end_and_exports(site: Site) -> None:
    state = checkpoint.newest(site.straight / "checkpoints")
    assert state is not None
    assert (state.finished, state.world_size) == (True, 2)
    assert json.loads((site.straight / "deepspeed.json").read_text())["zero_optimization"]["stage"] == 2
    for network in ("discriminator", "generator"):
        assert (site.folder / "encoder" / network / "model.safetensors").is_file()


def test_a_time_limit_stops_the_run_and_its_job_is_requeued(site: Site) -> None:
    run = site.folder / "limited"
    job = site.submit(run, "--time=2", "--signal=B:USR1@60", **site.freezing(run))
    # SLURM sends the signal up to a minute early, so it may come before the run hangs.
    site.until(lambda: any(run.glob("stop-*")), run)
    if (run / "frozen").is_file():
        os.kill(site.until_frozen(run), signal.SIGCONT)
    site.ends_like_straight(job, run)
    log = site.logs(run)
    assert "SIGUSR1: the run is asked to save and stop" in log
    assert "is unfinished, its newest checkpoint is of step" in log


def test_a_requeue_in_mid_step_loses_nothing(site: Site) -> None:
    run = site.folder / "requeued"
    job = site.submit(run, **site.freezing(run))
    site.until_frozen(run)
    site.cluster.run("scontrol", "requeue", job)
    site.ends_like_straight(job, run)


def test_a_job_that_loses_a_node_is_requeued(site: Site) -> None:
    run = site.folder / "lost"
    job = site.submit(run, **site.freezing(run))
    site.until_frozen(run)
    site.cluster.kill_node("n2")
    site.until(lambda: site.cluster.job(job)["JobState"] != "RUNNING", run)
    site.cluster.start_node("n2")
    site.ends_like_straight(job, run)


@pytest.mark.parametrize(("code", "starts"), [(1, 2), (2, 1)])
def test_a_run_that_fails_is_requeued_only_while_that_may_help(site: Site, code: int, starts: int) -> None:
    run = site.folder / f"failing-{code}"
    program = site.folder / f"python-{code}"
    # Everything but the training is the real thing.
    program.write_text(f'#!/bin/sh\n[ "$2" != electra_scale.pretrain ] || exit {code}\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    job = site.submit(run, PYTHON=str(program), MOST_IDLE_STARTS="2")
    shown = site.ended(job, run)
    assert (shown["JobState"], shown["Restarts"]) == ("FAILED", str(starts - 1)), site.logs(run)
    assert shown["ExitCode"] == f"{code}:0"


def test_a_job_is_requeued_after_a_signal_and_not_after_scancel(site: Site) -> None:
    run = site.folder / "cancelled"
    job = site.submit(run, arguments=["--schedule.steps", "100000"])
    site.until(lambda: row_count(run) >= 3, run)
    site.cluster.run("scancel", "--signal=USR1", "--batch", job)
    site.until(lambda: site.cluster.job(job)["Restarts"] == "1", run)
    stopped = checkpoint.newest(run / "checkpoints")
    assert stopped is not None
    site.until(lambda: row_count(run) >= stopped.step + 3, run)
    site.cluster.run("scancel", job)
    site.until(lambda: "SLURM has ended this start of the job" in site.logs(run), run)
    shown = site.ended(job, run)
    assert (shown["JobState"], shown["Restarts"]) == ("CANCELLED", "1")
    assert f"stopped at step {stopped.step}, which is saved" in site.logs(run)
    assert [row["step"] for row in rows(run)] == list(range(1, len(rows(run)) + 1))


def test_tensorboard_answers_on_its_node(site: Site) -> None:
    log = site.folder / "tensorboard.log"
    command = ["sbatch", "--parsable", f"--output={log}", "slurm/tensorboard.sh", "--logdir", str(site.straight)]
    job = site.cluster.run(*command, cwd=site.folder, **site.variables).stdout.strip()
    try:
        site.until(lambda: log.is_file() and "127.0.0.1" in log.read_text(), log.with_suffix(""))
        found = re.search(r"-L 6006:(127\.0\.0\.1:\d+) ", log.read_text())
        assert found is not None
        site.until(lambda: b"TensorBoard" in page(f"http://{found.group(1)}/"), log.with_suffix(""))
        tags = f"http://{found.group(1)}/data/plugin/scalars/tags"
        site.until(lambda: b"disc_loss_variance" in page(tags), log.with_suffix(""))
    finally:
        site.cluster.run("scancel", job)
    assert site.ended(job, log.with_suffix(""))["JobState"] == "CANCELLED"


_AT_THE_GATE = """
import os, signal, sys

if os.environ.get("SLURM_PROCID") == "1" and "doctor" in sys.orig_argv and "SLURM_RESTART_COUNT" not in os.environ:
{what}
"""


def at_the_gate(run: Path, what: str) -> dict[str, str]:
    """Variables with which the second node does something in the gate, at the first start of its job."""
    run.mkdir()
    (run / "sitecustomize.py").write_text(_AT_THE_GATE.format(what=what))
    return {"GATE": "yes", "PYTHONPATH": f"{run}{os.pathsep}{ROOT}"}


def test_a_node_that_differs_from_the_others_is_found_before_the_training(site: Site) -> None:
    run = site.folder / "unlike"
    variables = at_the_gate(run, f"    sys.path.insert(0, {str(run / 'numpy')!r})")
    (run / "numpy/numpy-0.0.1.dist-info").mkdir(parents=True)
    (run / "numpy/numpy-0.0.1.dist-info/METADATA").write_text("Name: numpy\nVersion: 0.0.1\n")
    job = site.submit(run, **variables)
    site.ends_like_straight(job, run)
    log = site.logs(run)
    assert "problem: n2: has numpy 0.0.1, the other nodes have " in log
    assert "no training starts: the check of the nodes ended with code 1" in log


def test_a_store_that_no_node_can_read_ends_the_job_at_the_gate(site: Site) -> None:
    run = site.folder / "storeless"
    job = site.submit(run, arguments=["--data.store", str(run / "store")], GATE="yes")
    shown = site.ended(job, run)
    assert (shown["JobState"], shown["Restarts"], shown["ExitCode"]) == ("FAILED", "0", "2:0"), site.logs(run)
    assert "problem: all nodes: the store" in site.logs(run)


def test_a_signal_in_the_gate_reaches_the_run(site: Site) -> None:
    run = site.folder / "signalled"
    freeze = f"""
    with open("{run}/frozen.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename("{run}/frozen.new", "{run}/frozen")
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    job = site.submit(run, **at_the_gate(run, freeze))
    frozen = site.until_frozen(run)
    site.cluster.run("scancel", "--signal=USR1", "--batch", job)
    site.until(lambda: any(run.glob("stop-*")), run)
    os.kill(frozen, signal.SIGCONT)
    site.ends_like_straight(job, run)
    assert "SIGUSR1: the run is asked to save and stop" in site.logs(run)


def page(address: str) -> bytes:
    """What a server answers, nothing while there is none."""
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return bytes(answer.read())
    except urllib.error.URLError:
        return b""
