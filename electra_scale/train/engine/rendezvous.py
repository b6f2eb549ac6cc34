"""How the ranks of a run find each other, and what is said while they wait and when they cannot.

Rank 0 has a key-value store at ``MASTER_ADDR`` and ``MASTER_PORT`` (torchrun has it there already). The process group
of torch.distributed uses the same one afterwards, when all ranks are known to be there, so it does not wait in silence.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar, cast

from torch.distributed import PrefixStore, Store, TCPStore

from data_pipeline.errors import OneRankError, UserError

T = TypeVar("T")

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")

_FIRST_LINE_SECONDS, _NEXT_LINES_SECONDS = 10.0, 60.0
"""After which a rank that waits logs for what, and logs it again."""

_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
"""Between looking whether others have come: a tenth of the time that has passed, within these."""

_CONNECT_SECONDS = 5.0
"""That one attempt to connect may take."""

_ANSWER_SECONDS = 60.0
"""In which a store that accepts connections must answer."""


@dataclass(frozen=True)
class Launched:
    """What a launcher gave this process: its rank among ``size``, and where rank 0 listens."""

    rank: int
    size: int
    address: str
    port: int

    @property
    def place(self) -> str:
        return f"{self.address}:{self.port}"


def launched_rank(environment: Mapping[str, str]) -> Launched:
    """The rank of this process, from the variables that launchers set.

    Raises:
        OneRankError: some are missing or impossible, as those left over in a shell are.
    """
    missing = [name for name in _VARIABLES if not environment.get(name)]
    if missing:
        given = [name for name in _VARIABLES if environment.get(name)]
        raise OneRankError(
            f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} set in the environment, but not "
            f"{', '.join(missing)}: set all of them, {_START}"
        )
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not environment[name].isdecimal():
            raise OneRankError(f"{name} is {environment[name]!r} in the environment, which is not a number: {_START}")
        numbers[name] = int(environment[name])
    if not numbers["RANK"] < numbers["WORLD_SIZE"]:
        raise OneRankError(
            f"RANK is {numbers['RANK']} and WORLD_SIZE {numbers['WORLD_SIZE']} in the environment, but ranks count "
            f"from 0 to WORLD_SIZE - 1: {_START}"
        )
    if not 0 < numbers["MASTER_PORT"] < 1 << 16:
        raise OneRankError(f"MASTER_PORT is {numbers['MASTER_PORT']}; choose a port from 1024 to 65535")
    return Launched(numbers["RANK"], numbers["WORLD_SIZE"], environment["MASTER_ADDR"], numbers["MASTER_PORT"])


_START = (
    "start the run with a launcher (deepspeed, torchrun, srun, mpirun), or unset RANK and WORLD_SIZE to train in this "
    "process alone"
)


class Rendezvous:
    """All ranks are there once this is created; every rank creates it.

    Args:
        launched: this rank.
        wait: seconds that it waits for the others.
        log: takes a line for people.
        give_way: called again and again while it waits, and may raise.

    Raises:
        OneRankError: the port is taken, rank 0 cannot be reached, or this process is one too many.
        UserError: not all ranks came; every rank that did learns it.
    """

    def __init__(
        self,
        launched: Launched,
        wait: float,
        log: Callable[[str], None],
        give_way: Callable[[], None] = lambda: None,
    ) -> None:
        self.launched = launched
        self._log = log
        self._give_way = give_way
        self._began = time.monotonic()
        self._wait = wait
        self._logged = 0.0
        self._hosted_elsewhere = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        own = launched
        if own.rank == 0:
            self._resolve()
        else:
            self._wait_for_listener()
        self._server = self._open(host=own.rank == 0 and not self._hosted_elsewhere)
        keys = self._prefixed(self._server)
        try:
            if own.rank == 0:
                self._wait_for_ranks(keys)
            else:
                self._join(keys)
        except RuntimeError as error:
            # What made rank 0 end may concern this one as well.
            self._give_way()
            raise OneRankError(
                f"the store of rank 0 at {own.place} does not answer any more ({first_line(error)}): rank 0 has ended, "
                "its own line says why"
            ) from error

    def connect(self) -> Store:
        """A new connection to the store, for use in another thread."""
        own = self.launched
        timeout = timedelta(seconds=_ANSWER_SECONDS)
        return self._prefixed(TCPStore(own.address, own.port, is_master=False, timeout=timeout))

    def _prefixed(self, store: Store) -> Store:
        # The store of torchrun outlives an attempt of its ranks.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return PrefixStore(f"electra-scale/{attempt}", store)

    def _open(self, host: bool) -> Store:
        own = self.launched

        def connect() -> Store:
            return TCPStore(
                own.address,
                own.port,
                is_master=host,
                wait_for_workers=False,
                # So that the process group finds it in place.
                multi_tenant=True,
                timeout=timedelta(seconds=_ANSWER_SECONDS),
            )

        # Rank 0 comes back to itself at this address, which another host may have.
        who = f"MASTER_ADDR must be an address of this host, {socket.gethostname()}" if host else "is it rank 0?"
        line = threading.Timer(_FIRST_LINE_SECONDS, self._log, [f"waiting for an answer at {own.place}: {who}"])
        line.daemon = True
        line.start()
        try:
            return within(_ANSWER_SECONDS + _CONNECT_SECONDS, connect, self._give_way)
        except RuntimeError as error:
            text = str(error)
            self._give_way()
            if not host and not self._listens():
                raise OneRankError(
                    f"nothing listens at {own.place} any more: rank 0 ended before this rank had reached it, its own "
                    "line says why"
                ) from error
            if not host:
                raise OneRankError(
                    f"what listens at {own.place} does not answer as rank 0 does ({first_line(error)}): another "
                    "program has the port; choose another one (MASTER_PORT, --master_port)"
                ) from error
            if "EADDRINUSE" in text:
                raise OneRankError(
                    f"port {own.port} of this host ({socket.gethostname()}), where the ranks are to meet, is taken by "
                    f"another program, perhaps an earlier run; `ss -ltnp 'sport = :{own.port}'` names it: end it, or "
                    "choose another port (deepspeed --master_port, torchrun --master-port, otherwise MASTER_PORT)"
                ) from error
            raise OneRankError(
                f"rank 0 cannot listen at {own.place} ({first_line(error)}): MASTER_ADDR must be an address of this "
                f"host ({socket.gethostname()}), and MASTER_PORT a port from 1024 to 65535 that nobody uses"
            ) from error
        finally:
            line.cancel()

    # Rank 0.

    def _resolve(self) -> None:
        """Wait until the address has a meaning: in a new cluster a name may come later than its host."""
        while True:
            try:
                socket.getaddrinfo(self.launched.address, self.launched.port, type=socket.SOCK_STREAM)
                return
            except OSError as error:
                self._look_up_again(error)

    def _wait_for_ranks(self, keys: Store) -> None:
        own = self.launched
        keys.set("size", str(own.size))
        while (arrived := 1 + int(keys.add("arrived", 0))) < own.size:
            self._pause(partial(self._missing, keys, arrived))
            if keys.check(["refused"]):
                break
            if self._over():
                keys.set("refused", f"{self._missing(keys, arrived)} for {self._wait / 60:.3g} min: {self._advice()}")
                break
        if keys.check(["refused"]):
            # The store ends with this rank, and the others are to read it first.
            time.sleep(3 * _LONGEST_PAUSE)
            raise UserError(keys.get("refused").decode())
        keys.set("go", "")

    def _missing(self, keys: Store, arrived: int) -> str:
        own = self.launched
        missing = [rank for rank in range(1, own.size) if not keys.check([f"rank/{rank}"])]
        named = ", ".join(map(str, missing[:8])) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        ranks = f"rank {named}" if len(missing) == 1 else f"ranks {named}"
        return f"waiting for {own.size - arrived} of {own.size} ranks at {own.place} ({ranks})"

    def _advice(self) -> str:
        if "SLURM_STEP_NUM_TASKS" in os.environ:
            return (
                "started by hand in a SLURM step of several tasks? use srun, or unset SLURM_STEP_NUM_TASKS to train in "
                "this process alone; otherwise look at the output of the missing ones"
            )
        return f"look at the output of the missing ones; if nothing has started them, {_START}"

    # The others.

    def _wait_for_listener(self) -> None:
        """Wait until something listens where rank 0 should."""
        own = self.launched
        while True:
            try:
                socket.create_connection((own.address, own.port), _CONNECT_SECONDS).close()
                return
            except socket.gaierror as error:
                self._look_up_again(error)
            except OSError as error:
                reason = error.strerror or str(error)
                waiting = f"waiting for rank 0 at {own.place} ({reason})"
                if self._over():
                    raise OneRankError(
                        f"{waiting} for {self._wait / 60:.3g} min: it has not started, MASTER_ADDR or MASTER_PORT is "
                        f"not where it listens, or a firewall is between them; if there is no such run, {_START}"
                    ) from error
                self._pause(partial(str, waiting))

    def _listens(self) -> bool:
        """Whether something takes connections where rank 0 should."""
        try:
            socket.create_connection((self.launched.address, self.launched.port), _CONNECT_SECONDS).close()
        except OSError:
            return False
        return True

    def _join(self, keys: Store) -> None:
        own = self.launched
        self._wait_for_key(keys, "size")
        size = int(keys.get("size"))
        if size != own.size:
            reason = (
                f"rank {own.rank} on {socket.gethostname()} has WORLD_SIZE {own.size}, but rank 0 at {own.place} has "
                f"{size}: start all of them from one launch, with the same numbers"
            )
            keys.set("refused", reason)
            raise UserError(reason)
        if keys.add(f"claims/{own.rank}", 1) > 1:
            other = json.loads(keys.get(f"rank/{own.rank}")) if keys.check([f"rank/{own.rank}"]) else {}
            raise OneRankError(
                f"there is a rank {own.rank} at {own.place} already (process {other.get('process', '?')} on "
                f"{other.get('host', '?')}): give each process its own RANK, and each run its own MASTER_PORT"
            )
        keys.set(f"rank/{own.rank}", json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        keys.add("arrived", 1)
        self._wait_for_key(keys, "go")

    def _wait_for_key(self, keys: Store, key: str) -> None:
        while not keys.check([key]):
            if keys.check(["refused"]):
                raise UserError(keys.get("refused").decode())
            # Rank 0 ends the waiting for ranks; this is about rank 0 itself.
            if time.monotonic() - self._began >= self._wait + _ANSWER_SECONDS:
                raise OneRankError(f"rank 0 at {self.launched.place} has not answered for {self._wait / 60:.3g} min")
            self._give_way()
            time.sleep(self._next_pause())

    # Both.

    def _look_up_again(self, error: OSError) -> None:
        host = socket.gethostname()
        reason = f"MASTER_ADDR is {self.launched.address!r}, which {host} cannot resolve ({error.strerror})"
        if time.monotonic() - self._began >= min(self._wait, _ANSWER_SECONDS):
            raise OneRankError(f"{reason}: set it to the name or the address of the host of rank 0") from error
        self._pause(lambda: reason)

    def _over(self) -> bool:
        return time.monotonic() - self._began >= self._wait

    def _next_pause(self) -> float:
        return min(max(_PAUSE, (time.monotonic() - self._began) / 10), _LONGEST_PAUSE)

    def _pause(self, what: Callable[[], str]) -> None:
        """Wait a moment, with a line now and then."""
        self._give_way()
        passed = time.monotonic() - self._began
        if passed >= (self._logged + _NEXT_LINES_SECONDS if self._logged else _FIRST_LINE_SECONDS):
            self._logged = passed
            if self.launched.rank == 0 or os.environ.get("LOCAL_RANK") == "0" or self.launched.size <= 8:
                left = max(0.0, self._wait - passed)
                self._log(f"{what()} for {passed:.0f} s, at most {left:.0f} s more: {self._advice()}")
        time.sleep(self._next_pause())


def within(seconds: float, operation: Callable[[], T], meanwhile: Callable[[], None] = lambda: None) -> T:
    """What an operation of a store gives; a process that has stopped keeps those who ask it waiting for ever.

    ``meanwhile`` is called again and again, and may raise.

    Raises:
        RuntimeError: there is no answer, or not in time.
    """
    answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((operation(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=ask, name="store", daemon=True).start()
    end = time.monotonic() + seconds
    while True:
        try:
            found, failure = answers.get(timeout=max(0.0, min(_LONGEST_PAUSE, end - time.monotonic())))
            break
        except queue.Empty:
            if time.monotonic() >= end:
                raise RuntimeError(f"no answer within {seconds:.0f} s") from None
        meanwhile()
    if failure is not None:
        raise failure
    return cast(T, found)


def first_line(error: Exception) -> str:
    """The message of an error of torch, without the stack trace of its C++."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
