"""Running a function over many tasks: in this process, in a pool of processes, or on the ranks of an MPI launch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from typing import Literal, Protocol, TypeVar

from data_pipeline.errors import UserError
from data_pipeline.progress import log

Job = TypeVar("Job")

_PARALLELISM = "TOKENIZERS_PARALLELISM"


class Workers(Protocol):
    """The processes that run the tasks of a build."""

    def prepare(self, function: Callable[[Job], None], job: Job) -> None:
        """Have processes start and call ``function(job)`` while this one goes on; what fails there, fails silently."""
        ...

    def run(self, function: Callable[[Job], None], jobs: Sequence[Job]) -> Iterator[None]:
        """Call ``function(job)`` for every job and yield once for each that is done, in any order."""
        ...


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_engine(engine: Literal["auto", "processes", "mpi"], ranks: Executor | None) -> None:
    """Refuse an engine that does not fit how this process was started; ``ranks`` as in :func:`start_workers`.

    Raises:
        UserError: MPI ranks were started for the engine processes, or none for the engine mpi.
    """
    if ranks is not None and engine == "processes":
        raise UserError("engine is processes but an MPI launcher started several: set engine to auto or mpi")
    if ranks is None and engine == "mpi":
        raise UserError(
            "engine mpi needs at least two MPI processes: start it as `mpirun -n 4 electra-data build --config FILE`"
        )


def expect_workers(workers: int | None, ranks: Executor | None) -> None:
    """Have what workers need imported while this process does something else; arguments as in :func:`start_workers`."""
    if ranks is None and (workers or available_cores()) > 1:
        _context()


@contextmanager
def start_workers(workers: int | None, tasks: int, ranks: Executor | None) -> Iterator[Workers]:
    """The workers of a build; no more processes than there are tasks.

    Args:
        ranks: runs functions on the other ranks of an MPI launch; None if this process was started alone.
    """
    if ranks is not None:
        yield _ExecutorWorkers(ranks)
        return
    count = min(workers or available_cores(), max(1, tasks))
    if count == 1:
        yield _InlineWorkers()
        return
    try:
        executor = ProcessPoolExecutor(count, mp_context=_context(), initializer=_enter_worker)
    except OSError as error:
        log(
            f"warning: this process works alone instead of {count} workers, which need semaphores in /dev/shm "
            f"({error.strerror}): give the machine or container one that can be written, such as docker run "
            "--shm-size=64m"
        )
        yield _InlineWorkers()
        return
    with executor:
        try:
            yield _ExecutorWorkers(executor, count)
        except KeyboardInterrupt:
            # A task may take minutes, and what it has begun counts no more than after a kill.
            _kill_workers()
            raise


def _context() -> BaseContext:
    # A child forked from here would inherit the thread pools of Arrow and tokenizers in an unusable state. The fork
    # server has imported all that a worker needs, while this process continues, and has not used any of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_pipeline.build.steps", "nanotoken"])
    try:
        with _interrupts_blocked():
            forkserver.ensure_running()
    except OSError:
        # It listens at a socket in the temporary folder, whose path may be too long for one. Fresh interpreters need
        # no socket, but each has to import everything.
        return multiprocessing.get_context("spawn")
    return context


def _kill_workers() -> None:
    """End the workers of this process, and the fork server, which may be about to start one that would complain."""
    server = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    if server is not None:
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)
    for worker in multiprocessing.active_children():
        worker.kill()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """What is started meanwhile never sees Ctrl-C, which reaches it too; this process does, afterwards."""
    # It is started too, and would unblock them.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _InlineWorkers:
    def prepare(self, function: Callable[[Job], None], job: Job) -> None:
        """This process does one thing after the other."""

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
    def __init__(self, executor: Executor, processes: int = 0) -> None:
        self._executor = executor
        self._processes = processes

    def prepare(self, function: Callable[[Job], None], job: Job) -> None:
        def submit() -> None:
            # What goes wrong with a process does so again in ``run``, which reports it.
            with suppress(Exception):
                for _ in range(self._processes):
                    self._executor.submit(function, job)

        # The first process comes only once the fork server has imported everything.
        threading.Thread(target=submit, daemon=True).start()

    def run(self, function: Callable[[Job], None], jobs: Sequence[Job]) -> Iterator[None]:
        futures = [self._executor.submit(function, job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except KeyboardInterrupt:
            # The workers are killed, and nothing comes next.
            raise
        except BaseException as error:
            for future in futures:
                future.cancel()
            # Whoever comes next may clear away what tasks still write to.
            wait(futures)
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    "a worker process was killed, often for lack of memory: run the same command again, it "
                    "continues where it stopped; lower workers or task_bytes if it happens again"
                ) from error
            raise


def _enter_worker() -> None:
    os.environ[_PARALLELISM] = "false"
    # The parent decides what an interrupt means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: multiprocessing.process.BaseProcess) -> None:
    # A killed parent can't end its pool, and an idle worker would wait forever.
    parent.join()
    os._exit(1)
