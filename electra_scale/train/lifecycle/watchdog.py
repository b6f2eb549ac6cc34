"""A collective that never ends: which rank is missing from it, and an end to the waiting."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import Store, TCPStore

from electra_scale.train.duty import Duty
from electra_scale.train.engine.world import World

_LONG = 6
"""Times the limit that start-up and saves may take: a first compile, a slow file system."""


@dataclass(frozen=True)
class _Place:
    """``count`` of posts so far, which all ranks make in the same order; ``allowed`` seconds until the next."""

    count: int
    step: int
    stage: str
    allowed: float


class Position:
    """What this rank is doing; the training thread posts it, and the watchdog reads it.

    ``limit`` seconds without progress are taken for a hang; ``patience`` more while a rank waits for its data.
    """

    def __init__(self, limit: float, patience: float = 0.0) -> None:
        self.limit = limit
        self._patience = patience
        self._moved = time.monotonic()
        self.place = _Place(0, 0, "starting", _LONG * limit)

    def at(self, stage: str, step: int, long: bool = False, patient: bool = False) -> None:
        """This rank starts a stage of a step; ``long`` for what takes minutes, ``patient`` for waiting for data."""
        allowed = self.limit * (_LONG if long else 1) + (self._patience if patient else 0.0)
        self.place = _Place(self.place.count + 1, step, stage, allowed)
        self._moved = time.monotonic()

    def again(self) -> None:
        """Progress within a stage."""
        self.place = _Place(self.place.count + 1, self.place.step, self.place.stage, self.place.allowed)
        self._moved = time.monotonic()

    def stale(self) -> float:
        """Seconds since the last post."""
        return time.monotonic() - self._moved


@dataclass
class _Seen:
    """Of another rank: its last beat, since when it is the last, and where the rank was."""

    beat: int
    since: float
    place: _Place


class Watchdog(Duty):
    """Ends this process when its rank has waited too long for another one, and reports for which.

    Ranks post beats and positions to a store of the watchdogs' own, on the first rank, since the store of the process
    group must not be used from two threads. One thread exchanges them, another one decides, so that a store that does
    not answer blocks neither. With a limit of 0 nothing runs.

    ``report`` gets the sentence before the process ends with code 1.
    """

    def __init__(self, position: Position, world: World, hosts: list[str], report: Callable[[str], None]) -> None:
        self._position = position
        self._world = world
        self._hosts = hosts
        self._report = report
        self._closed = threading.Event()
        self._answered = time.monotonic()
        # A rank that stops before its first beat is missing as well.
        unseen = _Place(0, 0, "starting", _LONG * position.limit)
        self._seen = {rank: _Seen(0, self._answered, unseen) for rank in range(world.size)}
        self._server: Store | None = None
        if position.limit <= 0 or world.size == 1:
            return
        self._pause = min(max(position.limit / 6, 0.1), 15.0)
        address, port = os.environ["MASTER_ADDR"], 0
        if world.main:
            server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            self._server, port = server, server.port
        port = int(world.gather(str(port))[0])
        self._client: Store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=60))
        for work in (self._exchange, self._decide):
            threading.Thread(target=work, name=f"watchdog{work.__name__}", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _exchange(self) -> None:
        beat = 0
        # The store ends with the first rank, whose silence counts like any other's.
        with contextlib.suppress(RuntimeError):
            while not self._closed.wait(self._pause):
                beat += 1
                place = self._position.place
                content = [beat, place.count, place.step, place.stage, place.allowed]
                self._client.set(str(self._world.rank), json.dumps(content))
                # Only a rank that waits asks for the others.
                if self._position.stale() >= self._position.limit / 3:
                    self._look()
                self._answered = time.monotonic()

    def _look(self) -> None:
        ranks = [rank for rank in range(self._world.size) if self._client.check([str(rank)])]
        for rank, content in zip(ranks, self._client.multi_get([str(rank) for rank in ranks]), strict=True):
            beat, *place = json.loads(content)
            known = self._seen.get(rank)
            if known is None or known.beat != beat:
                self._seen[rank] = _Seen(beat, time.monotonic(), _Place(*place))

    def _decide(self) -> None:
        while not self._closed.wait(self._pause):
            stale = self._position.stale()
            if stale < self._position.limit:
                continue
            silent = self._silent()
            alive = [seen.place.allowed for rank, seen in self._seen.items() if rank not in silent]
            if not silent and stale < max([self._position.place.allowed, *alive]):
                continue
            if self._closed.is_set():
                return
            sentence = self._sentence(silent, stale)
            print(f"electra-scale: error: rank {self._world.rank}: {sentence}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):
                self._report(sentence)
            os._exit(1)

    def _silent(self) -> list[int]:
        """Ranks of which no beat has come for longer than two beats take."""
        now, silence = time.monotonic(), 0.4 * self._position.limit
        if now - self._answered > silence:
            return [0] if self._world.rank else []
        return [rank for rank, seen in sorted(self._seen.items()) if now - seen.since > silence]

    def _sentence(self, silent: list[int], stale: float) -> str:
        own = self._position.place
        missing = silent
        why = "did not report"
        if not missing:
            places = {rank: seen.place for rank, seen in self._seen.items()}
            first = min([own.count, *(place.count for place in places.values())])
            missing = [rank for rank, place in sorted(places.items()) if place.count == first]
            why = "is behind"
            if len(missing) == self._world.size:
                return (
                    f"no rank has made progress for {stale:.0f} s, all are {own.stage} of step {own.step}: the network "
                    "or a device hangs; resume with --resume auto"
                )
        named = "; ".join(f"rank {rank} on {self._hosts[rank]} {why}{self._last(rank)}" for rank in missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        return (
            f"waited {stale:.0f} s for other ranks while {own.stage} of step {own.step} (logging.stuck_minutes): "
            f"{named}{more}; resume with --resume auto, without that host if it happens again"
        )

    def _last(self, rank: int) -> str:
        seen = self._seen.get(rank)
        return f", last seen {seen.place.stage} of step {seen.place.step}" if seen is not None else ""
