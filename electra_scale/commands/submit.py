"""``electra-scale submit``: the batch scripts' sbatch commands, shown or run."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import UserError

FOLDER_VARIABLE = "ELECTRA_SLURM"
"""Names the folder of the batch scripts, where it is not ``slurm`` in the current one; they read it too."""


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
            # Without the second option a job whose predecessor failed would wait for ever.
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
    "--time": "time limit of one life",
    "--signal": "B:SIGNAL@SECONDS before the time limit, at which the run saves and stops",
}
_SBATCH_NAME = {"--tasks-per-node": "--ntasks-per-node"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``electra-scale submit`` takes; everything else on its line goes to the training."""
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch commands and the scripts, run nothing")
    for option, text in _SBATCH.items():
        parser.add_argument(option, help=f"sbatch: {text}; the script's own line or slurm/site.env if not given")
    parser.add_argument("--sbatch", default="", metavar="OPTIONS", help='any others: --sbatch="--qos=low --exclusive"')
    parser.add_argument("--chain", action="store_true", help="build, train, export, each after the one before")
    parser.add_argument("--build", type=Path, metavar="YAML", help="with --chain: what to build the store from")
    parser.add_argument("--build-tasks", type=int, default=1, metavar="N", help="with --chain: tasks of the build (1)")
    parser.add_argument("--export", metavar="OUT", help="with --chain: where the export goes")


def jobs_of(options: argparse.Namespace, arguments: list[str]) -> list[Job]:
    """The jobs that an ``electra-scale submit`` asks for; ``arguments`` are those of ``electra_scale.pretrain``.

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
            raise UserError("submit: --build and --export are for --chain; add it")
        return [Job("train", script("pretrain.sh"), sbatch, arguments)]
    if not (options.build and options.export):
        raise UserError("submit: --chain needs --build YAML and --export OUT")
    store = read_config_file(options.build).get("out")
    if not isinstance(store, str):
        raise UserError(f"submit: {options.build} has no out, where the training would find the store")
    if not any(argument.split("=")[0] == "--data.store" for argument in arguments):
        arguments = [*arguments, "--data.store", store]
    build = [*place, f"--ntasks={options.build_tasks}"]
    return [
        Job("data", script("data.sh"), build, ["--config", str(options.build)]),
        Job("train", script("pretrain.sh"), sbatch, arguments, "data"),
        Job("export", script("export.sh"), place, [str(run), options.export], "train"),
    ]


def script(name: str) -> Path:
    """A batch script; raises UserError where it is not."""
    path = Path(os.environ.get(FOLDER_VARIABLE, "slurm")) / name
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: call submit in the checkout, or set {FOLDER_VARIABLE} to its slurm folder"
        )
    return path


def shell_text(jobs: list[Job]) -> str:
    """What submits the jobs, as a script for bash that stops at the first refusal and prints the jobs' ids."""
    site = script("site.env")
    lines = ["set -e", f"set -a; . {shlex.quote(str(site))}; set +a"]
    for job in jobs:
        lines += [job.command(), f'echo "{job.name}: job ${job.name}"']
    return "\n".join(lines) + "\n"


def submit(jobs: list[Job]) -> None:
    """Run sbatch for every job; raises UserError if one is refused."""
    try:
        result = subprocess.run(["bash", "-c", shell_text(jobs)], check=False)
    except FileNotFoundError as error:
        raise UserError("submit: there is no bash here") from error
    if result.returncode != 0:
        raise UserError("submit: sbatch refused; see its line above, and --dry-run for the command")


def preview(jobs: list[Job]) -> str:
    """What :func:`submit` would run, and the scripts that SLURM would start."""
    parts = [shell_text(jobs)]
    parts += [f"### {path}\n{path.read_text()}" for path in dict.fromkeys(job.script for job in jobs)]
    return "\n".join(parts)
