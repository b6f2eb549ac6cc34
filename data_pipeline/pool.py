"""Running a function over many tasks: in this process, in a pool of processes, or over MPI."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Literal, Protocol, TypeVar

from data_pipeline.errors import UserError

Job = TypeVar("Job")

_PARALLELISM = "TOKENIZERS_PARALLELISM"


class Workers(Protocol):
    """Runs ``function(job)`` for every job and yields once for each that is done, in any order."""

    def run(self, function: Callable[[Job], None], jobs: Sequence[Job]) -> Iterator[None]: ...


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def start_workers(engine: Literal["processes", "mpi"], workers: int | None, tasks: int) -> Iterator[Workers]:
    """The workers of a build; no more processes than there are tasks.

    Raises:
        UserError: the MPI engine is asked for without mpi4py or outside ``python -m mpi4py.futures``.
    """
    if engine == "mpi":
        with _mpi_executor() as executor:
            yield _ExecutorWorkers(executor)
        return
    count = min(workers or available_cores(), max(1, tasks))
    if count == 1:
        yield _InlineWorkers()
        return
    # spawn: a forked child would inherit the thread pools of Arrow and tokenizers in an unusable state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_enter_worker) as executor:
        yield _ExecutorWorkers(executor)


class _InlineWorkers:
    def run(self, function: Callable[[Job], None], jobs: Sequence[Job]) -> Iterator[None]:
        for job in jobs:
            before = os.environ.get(_PARALLELISM)
            os.environ[_PARALLELISM] = "false"
            try:
                function(job)
            finally:
                if before is None:
                    del os.environ[_PARALLELISM]
                else:
                    os.environ[_PARALLELISM] = before
            yield


class _ExecutorWorkers:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def run(self, function: Callable[[Job], None], jobs: Sequence[Job]) -> Iterator[None]:
        futures = [self._executor.submit(function, job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, often for lack of memory: run the same command again, it "
                "continues where it stopped; lower workers or task_bytes if it happens again"
            ) from error
        finally:
            for future in futures:
                future.cancel()


def _enter_worker() -> None:
    os.environ[_PARALLELISM] = "false"
    # The parent decides what an interrupt means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: multiprocessing.process.BaseProcess) -> None:
    # A killed parent can't end its pool, and an idle worker would wait for ever.
    parent.join()
    os._exit(1)


def _mpi_executor() -> Executor:
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPIPoolExecutor
    except (ImportError, RuntimeError) as error:  # the latter: mpi4py is here, an MPI library is not
        raise UserError("engine mpi needs mpi4py and an MPI library: pip install 'electra-scale[mpi]' mpich") from error
    if MPI.COMM_WORLD.Get_size() < 2:
        raise UserError(
            "engine mpi needs at least two MPI processes: start it as "
            "`mpiexec -n 4 python -m mpi4py.futures -m data_pipeline build --config FILE`"
        )
    executor: Executor = MPIPoolExecutor(initializer=_enter_worker)
    return executor
