"""What a batch script does when a life of its run has ended: ``python -m electra_scale.commands.requeue``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from electra_scale.train.checkpoint import state as checkpoint

_FILE = "requeue.json"
REFUSED = 2
"""Exit code of a program that says what its user must put right; another life would say the same."""

AGAIN = 75
"""Exit code that asks the batch script to requeue its job (EX_TEMPFAIL)."""


@dataclass
class Lives:
    """How far a run got: ``idle`` lives in a row of this job ended with no newer checkpoint than ``step``."""

    job: str = ""
    step: int = 0
    idle: int = 0
    version: int = 1


@dataclass(frozen=True)
class Verdict:
    """What to do, and the line that says why."""

    action: Literal["finished", "again", "stop"]
    line: str


def judge(run: Path, job: str, code: int, most_idle: int) -> Verdict:
    """Decide after a life of a job that ended with ``code``, and remember how far it got.

    A run goes on for as long as its newest checkpoint grows; after ``most_idle`` lives in a row in which it did not,
    the job is given up. A new job starts counting again.

    Raises:
        UserError: the newest checkpoint or the file of lives cannot be read.
    """
    state = checkpoint.newest(run / "checkpoints")
    step = 0 if state is None else state.step
    if state is not None and state.finished:
        (run / _FILE).unlink(missing_ok=True)
        return Verdict("finished", f"{run} is finished at step {step}")
    if code == REFUSED:
        return Verdict("stop", f"{run} ended with an error that another start would meet again; not requeued")
    before = _read(run / _FILE)
    idle = before.idle if before.job == job else 0
    lives = Lives(job, step, 0 if step > before.step else idle + 1)
    run.mkdir(parents=True, exist_ok=True)
    write_bytes(run / _FILE, json.dumps(asdict(lives)).encode() + b"\n")
    if lives.idle >= most_idle:
        return Verdict(
            "stop",
            f"{run} got no further than step {step} in {lives.idle} lives; not requeued. See its log, save more often "
            "or give it more time, then submit it again",
        )
    return Verdict("again", f"{run} is unfinished, its newest checkpoint is of step {step}; requeued")


def _read(path: Path) -> Lives:
    if not path.is_file():
        return Lives()
    try:
        return Lives(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it") from error


def main(arguments: list[str] | None = None) -> int:
    """``folder OPTIONS OF PRETRAIN`` prints the run folder; ``judge`` prints a line, with 0, ``AGAIN`` or 1."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["folder"]:
            print(run_folder(given[1:]))
            return 0
        parser = argparse.ArgumentParser(prog="electra_scale.commands.requeue")
        parser.add_argument("command", choices=["folder", "judge"])
        parser.add_argument("run", type=Path, help="run folder")
        parser.add_argument("--job", required=True, help="id of the job")
        parser.add_argument("--code", type=int, required=True, help="exit code of the life that ended")
        parser.add_argument("--most_idle", type=int, default=3, help="lives in a row without a newer checkpoint")
        options = parser.parse_args(given)
        verdict = judge(options.run, options.job, options.code, options.most_idle)
    except UserError as error:
        print(f"electra-scale: error: {error}", file=sys.stderr)
        return REFUSED
    print(verdict.line)
    return {"finished": 0, "again": AGAIN, "stop": 1}[verdict.action]


def run_folder(arguments: list[str]) -> Path:
    """The folder of the run that ``electra_scale.pretrain`` makes of these options; raises UserError as it would."""
    # Imported late: a recipe brings torch with it, which the end of a life has no time for.
    from electra_scale.recipe.parse import parse_recipe
    from electra_scale.recipe.start_options import pretrain_parser

    recipe, _ = parse_recipe(pretrain_parser(), arguments)
    return Path(recipe.run_dir)


if __name__ == "__main__":
    sys.exit(main())
