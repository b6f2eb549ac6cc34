"""``electra-scale submit``: puts together the sbatch commands of the batch scripts, and shows or runs them."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import UserError
from electra_scale.recipe.shipped import shipped_folder

FOLDER_VARIABLE = "ELECTRA_SLURM"
"""Variable that names the folder of the batch scripts, where that is not ``slurm`` in the current one. The scripts read
it too: SLURM starts a copy of a script, which does not know where the others lie."""

PYTHON_VARIABLE = "ELECTRA_PYTHON"
"""Variable with the python that ``site.env`` takes where the shipped scripts are used: there need be no virtual
environment in the current folder."""


@dataclass(frozen=True)
class Job:
    """One sbatch command. ``after`` is the name of the job that must have succeeded before it starts."""

    name: str
    script: Path
    options: list[str]
    arguments: list[str]
    after: str | None = None

    def command(self) -> str:
        """A line of shell that submits the job and keeps its id in a variable of the job's name."""
        words = ["sbatch", "--parsable", *self.options]
        dependency = ""
        if self.after is not None:
            # Without the second option a job whose predecessor failed would wait forever.
            dependency = f' --dependency=afterok:"${self.after}" --kill-on-invalid-dep=yes'
        rest = shlex.join([str(self.script), *self.arguments])
        return f"{self.name}=$({shlex.join(words)}{dependency} {rest})"


_SBATCH = {
    "--nodes": "nodes",
    "--tasks-per-node": "tasks on each node: one for each device",
    "--gpus-per-node": "GPUs of each node",
    "--cpus-per-task": "cores of each task",
    "--partition": "partition",
    "--account": "account",
    "--time": "time limit of each start of the job",
    "--signal": "B:SIGNAL@SECONDS before the time limit, at which the run saves and stops",
}
_SBATCH_NAME = {"--tasks-per-node": "--ntasks-per-node"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``electra-scale submit``; everything else on its line goes to the training."""
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch commands and the scripts, run nothing")
    for option, text in _SBATCH.items():
        parser.add_argument(option, help=f"sbatch: {text}; the script's own line or slurm/site.env if not given")
    parser.add_argument("--sbatch", default="", metavar="OPTIONS", help='any others: --sbatch="--qos=low --exclusive"')
    parser.add_argument("--chain", action="store_true", help="build, train, export, each after the one before")
    parser.add_argument("--build", type=Path, metavar="YAML", help="with --chain: what to build the store from")
    parser.add_argument("--build-tasks", type=int, default=1, metavar="N", help="with --chain: tasks of the build (1)")
    parser.add_argument("--export", metavar="OUT", help="with --chain: where the export goes")


def run_submit(options: argparse.Namespace, arguments: list[str]) -> None:
    """Submit the jobs, or print them with ``--dry-run``; raises UserError if one is refused."""
    jobs = jobs_of(options, arguments)
    if options.dry_run:
        print(preview(jobs), end="")
    else:
        submit(jobs)


def jobs_of(options: argparse.Namespace, arguments: list[str]) -> list[Job]:
    """The jobs that the options ask for; ``arguments`` are those of ``electra_scale.pretrain``.

    Raises UserError for a recipe that would be refused, and for a chain that lacks one of its ends.
    """
    # Imported late: other commands read this module for its options, and these take long to import.
    from data_pipeline.config import read_config_file
    from electra_scale.commands.requeue import run_folder

    run = run_folder(arguments)
    sbatch = []
    for option in _SBATCH:
        value = getattr(options, option.strip("-").replace("-", "_"))
        if value is not None:
            sbatch.append(f"{_SBATCH_NAME.get(option, option)}={value}")
    place = [word for word in sbatch if word.startswith(("--partition", "--account"))]
    sbatch += shlex.split(options.sbatch)
    if not options.chain:
        if options.build or options.export:
            raise UserError("submit: --build and --export are for --chain; add --chain")
        return [Job("train", script("pretrain.sh"), sbatch, arguments)]
    if not (options.build and options.export):
        raise UserError("submit: --chain needs --build YAML and --export OUT")
    store = read_config_file(options.build).get("out")
    if not isinstance(store, str):
        raise UserError(f"submit: {options.build} has no setting `out`, which names the store for the training")
    if not any(argument.split("=")[0] == "--data.store" for argument in arguments):
        arguments = [*arguments, "--data.store", store]
    build = [*place, f"--ntasks={options.build_tasks}"]
    return [
        Job("data", script("data.sh"), build, ["--config", str(options.build)]),
        Job("train", script("pretrain.sh"), sbatch, arguments, "data"),
        Job("export", script("export.sh"), place, [str(run), options.export], "train"),
    ]


def script_folder() -> Path:
    """Where the batch scripts are: the folder that the variable names, ``slurm`` here, or the shipped one."""
    if FOLDER_VARIABLE in os.environ:
        return Path(os.environ[FOLDER_VARIABLE])
    here = Path("slurm")
    return here if (here / "lib.sh").is_file() else shipped_folder("slurm")


def script(name: str) -> Path:
    """A batch script; raises UserError if it does not exist."""
    path = script_folder() / name
    if not path.is_file():
        raise UserError(f"{path} does not exist; unset {FOLDER_VARIABLE}, or set it to the folder of the batch scripts")
    return path


def shell_text(jobs: list[Job]) -> str:
    """A bash script that submits the jobs, stops at the first that is refused, and prints the jobs' ids."""
    folder = script("site.env").parent
    lines = ["set -e"]
    if FOLDER_VARIABLE not in os.environ and folder == shipped_folder("slurm"):
        python = shlex.quote(sys.executable)
        lines += [f"export {FOLDER_VARIABLE}={shlex.quote(str(folder))} {PYTHON_VARIABLE}={python}"]
    lines += [f"set -a; . {shlex.quote(str(folder / 'site.env'))}; set +a"]
    for job in jobs:
        lines += [job.command(), f'echo "{job.name}: job ${job.name}"']
    return "\n".join(lines) + "\n"


def submit(jobs: list[Job]) -> None:
    """Run sbatch for every job; raises UserError if one is refused."""
    try:
        result = subprocess.run(["bash", "-c", shell_text(jobs)], check=False)
    except FileNotFoundError as error:
        raise UserError("submit needs bash, which is not on the PATH") from error
    if result.returncode != 0:
        raise UserError("submit: sbatch refused a job for the reason above; --dry-run prints the command")


def preview(jobs: list[Job]) -> str:
    """The text of what :func:`submit` would run, and of the scripts that SLURM would start."""
    parts = [shell_text(jobs)]
    parts += [f"### {path}\n{path.read_text()}" for path in dict.fromkeys(job.script for job in jobs)]
    return "\n".join(parts)
