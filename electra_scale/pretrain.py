"""``python -m electra_scale.pretrain``: what every launcher starts, once per device."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from data_pipeline.errors import UserError
from electra_scale.config import parse_recipe, recipe_parser
from electra_scale.data.prefetch import DataError
from electra_scale.train.stop import StopRequests
from electra_scale.train.time_slice import TimeSlice


def pretrain_parser() -> ArgumentParser:
    """Parser of a recipe and of what only a start of it has."""
    parser = recipe_parser("electra_scale.pretrain")
    parser.add_argument(
        "--resume",
        choices=["auto", "never"],
        default="never",
        help="auto: go on from the run folder's newest checkpoint, if there is one; never: refuse a folder with a run",
    )
    parser.add_argument(
        "--stop_file",
        type=str,
        help="the run saves and ends with code 0 soon after this file appears; its text is logged as the reason",
    )
    parser.add_argument(
        "--time_slice_minutes",
        type=float,
        help="time that the job is given; a run that could never save in it is refused: with --stop_file start-up, a "
        "step and a save must fit, without it start-up, checkpoint.every steps and a save",
    )
    parser.add_argument("--local_rank", type=int, default=0, help="given by the deepspeed launcher; not read")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Train a recipe. Exit code 2, with one line on stderr, for what the user can put right."""
    parser = pretrain_parser()
    try:
        recipe, options = parse_recipe(parser, sys.argv[1:] if arguments is None else arguments)
        stop = StopRequests(Path(options.stop_file) if options.stop_file else None, recipe.checkpoint.stop_signal)
        stop.listen()
        time_slice = _time_slice(options.time_slice_minutes, stop)
        # Imported late: --help and a bad recipe need neither torch nor DeepSpeed.
        from electra_scale.train.engine import join_world, leave_world
        from electra_scale.train.loop import train

        world = join_world()
        try:
            train(recipe, options.resume == "auto", world, stop, time_slice)
        finally:
            leave_world()
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        # Other errors come to every rank alike.
        if rank == "0" or isinstance(error, DataError):
            where = "" if rank == "0" else f"rank {rank}: "
            print(f"electra-scale: error: {where}{error}", file=sys.stderr, flush=True)
        return 2
    return 0


def _time_slice(minutes: float | None, stop: StopRequests) -> TimeSlice | None:
    if minutes is None:
        return None
    if not minutes > 0:
        raise UserError(f"--time_slice_minutes is {minutes}; it must be above 0, or not given")
    return TimeSlice(60 * minutes, asks=stop.file is not None)


if __name__ == "__main__":
    sys.exit(main())
