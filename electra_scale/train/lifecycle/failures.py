"""One way to agree that a run has failed: the rank that failed says why, once, and the others end with it.

A rank that fails leaves the others in a collective operation, which may wait for it for minutes. So failures go another
way, through the key-value store by which the ranks found each other: the first rank that fails writes why, and a thread
of every other rank looks there each second.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass

from torch.distributed import DistError, Store
from tqdm import tqdm

from data_pipeline.errors import OneRankError, OtherRankError, UserError
from data_pipeline.places.system_errors import refused_by_system
from electra_scale.train.engine.rendezvous import first_line, within
from electra_scale.train.engine.world import LostMain, World

_KEY, _LEFT = "failed", "left"

_LOOK_SECONDS = 1.0
"""Between two looks for another rank's failure."""

_OWN_END_SECONDS = 3.0
"""In which a rank has to end by itself once another one has failed, or the store has gone."""

_REASON_SECONDS = 5.0
"""That a rank which lost the others waits for the reason of one of them."""

_FIRST_RANK_SECONDS = 2.0
"""That rank 0 has for reporting an error which every rank meets alike."""

_ANSWER_SECONDS = 5.0
"""In which the store has to answer: rank 0 may hang."""

_LAST_RANK_SECONDS = 10.0
"""That the rank which has the store stays for the others to read why it failed."""

_LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "socket closed",
    "connection was closed",
    "connection refused",
    "timed out waiting",
    "application timeout",
    "watchdog caught collective operation timeout",
    "ncclremoteerror",
    "ncclsystemerror",
    "nccl communicator was aborted",
    "failed to recv",
    "failed to send",
)
"""What errors of gloo, NCCL and the store have in them where another rank is gone."""


@dataclass(frozen=True)
class Failure:
    """Why a run has failed: ``reason``, met by ``rank`` on ``host``; every rank ends with ``code``."""

    rank: int
    host: str
    reason: str
    code: int

    def sentence(self) -> str:
        """The reason, with the rank unless it is the first one."""
        return self.reason if self.rank == 0 else f"rank {self.rank} on {self.host}: {self.reason}"


class Failures:
    """One rank's part of it, from the moment at which the ranks have met until :meth:`close`.

    ``report`` gets the sentence of another rank's failure just before this process is ended because its main thread
    does not come back from a collective operation.
    """

    def __init__(self, world: World) -> None:
        self.report: Callable[[str], None] = lambda sentence: None
        self._rank, self._size = world.rank, world.size
        self._host = socket.gethostname()
        self._settled: Failure | None = None
        self._closed = threading.Event()
        self._store: Store | None = None
        self._thread: threading.Thread | None = None
        if world.size > 1 and world.rendezvous is not None:
            self._store = world.rendezvous.connect()
            self._thread = threading.Thread(target=self._watch, name="failures", daemon=True)
            self._thread.start()

    def settle(self, error: BaseException, step: int = 0) -> Failure:
        """What the run ends with because of ``error``, met at ``step``: this rank's failure, or one that came before.

        This rank's own is reported here, on stderr: a UserError as one line, a fault of the program with its traceback.
        """
        if isinstance(error, OSError):
            # It stays what it is where it names no file.
            with contextlib.suppress(OSError):
                error = refused_by_system(error)
        if self._settled is None:
            lost = is_lost(error)
            # Errors of the input come to every rank alike.
            alike = isinstance(error, UserError) and not isinstance(error, OneRankError) and self._rank > 0
            found = self._wait_for(_REASON_SECONDS if lost else _FIRST_RANK_SECONDS if alike else 0.0)
            if found is None:
                code = 2 if isinstance(error, UserError) else 1
                own = Failure(self._rank, self._host, self._reason(error, step), code)
                found = self._claim(own)
            self._settled = found
            if found.rank == self._rank:
                self._print(error, lost)
        return self._settled

    def close(self) -> None:
        """This rank needs the others no more. After a failure the rank that has the store is the last to return."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(2 * _LOOK_SECONDS)
        if self._settled is None or self._store is None:
            return
        with contextlib.suppress(RuntimeError):
            within(_ANSWER_SECONDS, lambda: self._leave(1))
            deadline = time.monotonic() + _LAST_RANK_SECONDS
            while self._rank == 0 and self._leave(0) < self._size and time.monotonic() < deadline:
                time.sleep(0.05)

    def _leave(self, ranks: int) -> int:
        """How many ranks have left, this one with ``ranks`` of them."""
        assert self._store is not None
        return int(self._store.add(_LEFT, ranks))

    def _reason(self, error: BaseException, step: int) -> str:
        if isinstance(error, UserError):
            return str(error)
        if is_lost(error):
            at = f" at step {step}" if step else ""
            return f"lost the other ranks{at}; the reason is in their output ({_brief(error)})"
        return f"{type(error).__name__}: {_brief(error)}"

    def _print(self, error: BaseException, lost: bool) -> None:
        assert self._settled is not None
        if not isinstance(error, UserError) and not lost:
            _write("".join(traceback.format_exception(error)).rstrip())
        _write(f"electra-scale: error: {self._settled.sentence()}")

    def _claim(self, own: Failure) -> Failure:
        """Make this rank's failure that of the run, unless another one came first."""
        if self._store is None:
            return own
        store = self._store
        try:
            return _failure(within(_ANSWER_SECONDS, lambda: store.compare_set(_KEY, "", json.dumps(asdict(own)))))
        except RuntimeError:
            return own

    def _wait_for(self, seconds: float) -> Failure | None:
        deadline = time.monotonic() + seconds
        store = self._store
        while store is not None:
            try:
                if within(_ANSWER_SECONDS, lambda: store.check([_KEY])):
                    return _failure(store.get(_KEY))
            except RuntimeError:
                return None
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)
        return None

    def _watch(self) -> None:
        assert self._store is not None
        found: Failure | None = None
        gone = False
        while found is None and not gone:
            # With many ranks rank 0 has as many requests to answer.
            if self._closed.wait(_LOOK_SECONDS * max(1.0, self._size / 256)):
                return
            try:
                if self._store.check([_KEY]):
                    found = _failure(self._store.get(_KEY))
            except RuntimeError:
                gone = True
        if self._closed.wait(_OWN_END_SECONDS if found else 10 * _OWN_END_SECONDS) or self._settled is not None:
            return
        if found is None:
            found = Failure(
                self._rank, self._host, "lost rank 0, which has ended or cannot be reached; its output says why", 1
            )
            _write(f"electra-scale: error: {found.sentence()}")
        reporting = threading.Thread(target=self.report, args=(found.sentence(),), daemon=True)
        reporting.start()
        reporting.join(_OWN_END_SECONDS)
        with contextlib.suppress(RuntimeError):
            within(_ANSWER_SECONDS, lambda: self._leave(1))
        os._exit(found.code)


def is_lost(error: BaseException) -> bool:
    """Whether an error says no more than that another rank is gone."""
    if isinstance(error, LostMain | OtherRankError):
        return True
    text = str(error).lower()
    return isinstance(error, DistError | RuntimeError) and any(sign in text for sign in _LOST)


def _failure(data: bytes) -> Failure:
    return Failure(**json.loads(data))


def _brief(error: BaseException) -> str:
    text = " ".join(first_line(error if isinstance(error, Exception) else Exception(repr(error))).split())
    return text if len(text) <= 300 else f"{text[:300]}..."


def _write(text: str) -> None:
    """Print a text on stderr, and the progress bar again after it, if there is one."""
    # In one piece: other ranks, and other threads of this one, may be printing too.
    tqdm.write(f"{text}\n", file=sys.stderr, end="")
    sys.stderr.flush()
