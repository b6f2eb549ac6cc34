"""``python -m electra_scale.pretrain``: what every launcher starts, once per device."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from data_pipeline.errors import UserError
from electra_scale.data.patience import DataError
from electra_scale.recipe.parse import parse_recipe, pretrain_parser
from electra_scale.train.lifecycle.stop import StopRequests
from electra_scale.train.lifecycle.time_slice import TimeSlice


def main(arguments: list[str] | None = None) -> int:
    """Train a recipe. Exit code 2, with one line on stderr, for what the user can put right."""
    parser = pretrain_parser()
    try:
        recipe, options = parse_recipe(parser, sys.argv[1:] if arguments is None else arguments)
        stop = StopRequests(Path(options.stop_file) if options.stop_file else None, recipe.checkpoint.stop_signal)
        stop.listen()
        time_slice = _time_slice(options.time_slice_minutes, stop)
        # Imported late: --help and a bad recipe need neither torch nor DeepSpeed.
        from electra_scale.train.engine.world import join_world, leave_world
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
