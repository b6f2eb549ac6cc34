"""Whether a SLURM job is requeued once its run has ended: ``python -m electra_scale.commands.requeue``.

``slurm/pretrain.sh`` calls it. A job is requeued for as long as its run makes progress.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_pipeline.command_line import run_command
from data_pipeline.errors import UserError
from data_pipeline.places.json_file import read_record, write_record
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.lifecycle.status import read_status

_FILE = "requeue.json"
REFUSED = 2
"""Exit code of a program whose error only the user can put right: another start would end with the same one."""

REQUEUE = 75
"""Exit code that asks the batch script to requeue its job (EX_TEMPFAIL)."""


@dataclass
class Progress:
    """How far a run got (``requeue.json``): ``idle`` starts of ``job`` in a row left no checkpoint after ``step``."""

    job: str = ""
    step: int = 0
    idle: int = 0
    version: int = 1


@dataclass(frozen=True)
class Decision:
    """What the batch script does, and the line for its log that says why."""

    action: Literal["finished", "requeue", "stop"]
    line: str


def decide(run: Path, job: str, code: int, most_idle: int) -> Decision:
    """Decide what to do after a start of a job has ended with exit code ``code``, and record how far the run got.

    A job is requeued for as long as the newest checkpoint advances, and given up after ``most_idle`` starts in a row
    in which it did not. A new job starts counting at 0.

    Raises:
        UserError: the newest checkpoint or ``requeue.json`` cannot be read.
    """
    state = checkpoint.newest(run / "checkpoints")
    step = 0 if state is None else state.step
    if state is not None and state.finished and step >= _asked(run):
        (run / _FILE).unlink(missing_ok=True)
        return Decision("finished", f"{run} is finished at step {step}")
    if code == REFUSED:
        return Decision("stop", f"{run} ended with an error that another start would repeat; the job is not requeued")
    before = read_record(run / _FILE, _progress, advice="delete it") or Progress()
    idle = before.idle if before.job == job else 0
    now = Progress(job, step, 0 if step > before.step else idle + 1)
    run.mkdir(parents=True, exist_ok=True)
    write_record(run / _FILE, now)
    if now.idle >= most_idle:
        times = "1 start" if now.idle == 1 else f"{now.idle} starts in a row"
        return Decision(
            "stop",
            f"{run} got no further than step {step} in {times}; the job is not requeued. Look for the reason in its "
            "log, save more often or give it more time, then submit it again",
        )
    return Decision("requeue", f"{run} is unfinished, its newest checkpoint is of step {step}; the job is requeued")


def _progress(content: dict[str, Any]) -> Progress:
    progress = Progress(**content)
    if type(progress.step) is not int or type(progress.idle) is not int:
        raise ValueError(f"step is {progress.step!r}, idle is {progress.idle!r}")
    return progress


def _asked(run: Path) -> int:
    """Steps that the newest start was asked for: more than a finished checkpoint has, if it was resumed with more."""
    try:
        return read_status(run).total_steps
    except UserError:
        # No start of this release, or one that a full disk ended.
        return 0


def main(arguments: list[str] | None = None) -> int:
    """``folder OPTIONS OF PRETRAIN`` prints the run folder. ``decide`` prints why, with exit code 0 for a finished run,
    ``REQUEUE`` to requeue the job, 1 to end it, and ``REFUSED`` for an error."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_command("electra-scale", lambda: _run(given))


def _run(given: list[str]) -> int:
    if given[:1] == ["folder"]:
        print(run_folder(given[1:]))
        return 0
    parser = argparse.ArgumentParser(prog="electra_scale.commands.requeue")
    parser.add_argument("command", choices=["folder", "decide"])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--job", required=True, help="id of the job")
    parser.add_argument("--code", type=int, required=True, help="exit code with which the tasks have ended")
    parser.add_argument("--most_idle", type=int, default=3, help="starts in a row without a newer checkpoint")
    options = parser.parse_args(given)
    decision = decide(options.run, options.job, options.code, options.most_idle)
    print(decision.line)
    return {"finished": 0, "requeue": REQUEUE, "stop": 1}[decision.action]


def run_folder(arguments: list[str]) -> Path:
    """The folder of the run that ``electra_scale.pretrain`` makes of these options; raises UserError as it would."""
    # Imported late: after a run there may be little time left, and these take long to import.
    from electra_scale.recipe.parse import parse_recipe, pretrain_parser

    recipe, _ = parse_recipe(pretrain_parser(), arguments)
    return Path(recipe.run_dir)


if __name__ == "__main__":
    sys.exit(main())
