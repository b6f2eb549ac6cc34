"""``python -m electra_scale.pretrain``: what every launcher starts, once per device."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.errors import OneRankError, UserError
from data_pipeline.outputs import guard_outputs
from data_pipeline.places.system_errors import refused_by_system
from electra_scale.train.lifecycle.stop import Stopped, StopRequests

if TYPE_CHECKING:
    from electra_scale.train.lifecycle.profiled_steps import ProfiledSteps
    from electra_scale.train.lifecycle.time_slice import TimeSlice

_END_SECONDS = 15.0
"""That a rank of a failed run has for ending: what is left of a process group may never let go."""


def main(arguments: list[str] | None = None) -> int:
    """Train a recipe. Exit code 2, with one line on stderr, for what the user can put right."""
    guard_outputs()
    threading.excepthook = _thread_has_failed
    stop = StopRequests()
    # A million objects of modules are made until the first step, and hardly any garbage: looking for it took a sixth of
    # the time. The run turns it on when it begins.
    gc.disable()
    try:
        # First of all: the imports that follow take seconds.
        with stop.listening(joined=False):
            return _main(sys.argv[1:] if arguments is None else arguments, stop)
    finally:
        gc.enable()


def _main(arguments: list[str], stop: StopRequests) -> int:
    from electra_scale.recipe.parse import parse_recipe, pretrain_parser

    # Otherwise a rank that only lost the others prints stack traces of C++.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        recipe, options = parse_recipe(pretrain_parser(), arguments)
        stop.use(Path(options.stop_file) if options.stop_file else None, recipe.checkpoint.stop_signal)
        time_slice = _time_slice(options.time_slice_minutes, stop)
        profiled = _profiled_steps(options.profile, recipe.total_steps)
        # Imported late: --help and a bad recipe need neither torch nor DeepSpeed.
        from electra_scale.train.engine.world import join_world, leave_world
        from electra_scale.train.lifecycle.failures import Failures
        from electra_scale.train.loop import train

        world = join_world(stop.raise_if_filed)
    except Stopped as stopped:
        if _rank() == "0":
            print(f"stopped before the ranks had met: {stopped}; nothing to save, start it again")
        return 0
    except UserError as error:
        # A host may have files of its own, so the first rank of each reports what it finds before the ranks have met.
        if "0" in (_rank(), os.environ.get("LOCAL_RANK")) or isinstance(error, OneRankError):
            where = "" if _rank() == "0" else f"rank {_rank()}: "
            print(f"electra-scale: error: {where}{error}", file=sys.stderr, flush=True)
        return 2
    except OSError as error:
        # Which rank meets it is not known, so each that does reports it.
        print(f"electra-scale: error: rank {_rank()}: {refused_by_system(error)}", file=sys.stderr, flush=True)
        return 2
    stop.join()
    failures = Failures(world)
    try:
        train(recipe, options.resume == "auto", world, stop, time_slice, failures, profiled)
    except (Exception, SystemExit) as error:
        code = failures.settle(error).code
        if world.size > 1:
            _end_within(_END_SECONDS, code)
        return code
    finally:
        failures.close()
        leave_world()
    return 0


def _thread_has_failed(arguments: threading.ExceptHookArgs) -> None:
    # TensorBoard's own thread keeps its error, such as a full disk, for the next row, which reports it.
    if not type(arguments.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(arguments)


def _rank() -> str:
    return os.environ.get("RANK", "0")


def _end_within(seconds: float, code: int) -> None:
    end = threading.Timer(seconds, os._exit, (code,))
    end.daemon = True
    end.start()


def _time_slice(minutes: float | None, stop: StopRequests) -> TimeSlice | None:
    if minutes is None:
        return None
    from electra_scale.train.lifecycle.time_slice import TimeSlice

    if not minutes > 0:
        raise UserError(f"--time_slice_minutes is {minutes}; it must be above 0, or not given")
    return TimeSlice(60 * minutes, asks=stop.file is not None)


def _profiled_steps(option: str | None, total: int) -> ProfiledSteps | None:
    if option is None:
        return None
    from electra_scale.train.lifecycle.profiled_steps import ProfiledSteps

    return ProfiledSteps.of(option, total)


if __name__ == "__main__":
    code = main()
    # What is left goes with the process.
    gc.freeze()
    # All is saved and reported: what a launcher sends while Python ends makes no failure of it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)
