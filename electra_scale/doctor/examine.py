"""The examination itself, on every rank: stage by stage, with the first rank waiting for all at each."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from electra_scale.doctor.clocks import answer_clock, ask_clock
from electra_scale.doctor.facts import NodeFacts, Space, facts_of_node
from electra_scale.doctor.links import AllReduce, Links, PairRate
from electra_scale.doctor.meeting import GRACE, Absent, Dismissed, Meeting, apart, first_line
from electra_scale.doctor.pairs import schedule
from electra_scale.doctor.seat import Seat
from electra_scale.doctor.storage import FolderReading, StoreReading, leave_mark, read_folder, read_store
from electra_scale.doctor.table import lines_of
from electra_scale.doctor.verdict import Examined, Node, Problem, absent, judge, never_came

T = TypeVar("T")

_EXCHANGE_SECONDS = 0.25
_LEAST_AMOUNT = 10**6


@dataclass(frozen=True)
class Checks:
    """What to examine. Each stage may take ``wait`` seconds; ``short`` proves that it works and measures no rates."""

    run_dir: str = "."
    store: str | None = None
    cache: str | None = None
    short: bool = False
    wait: float = 60.0


@dataclass(frozen=True)
class Findings:
    """What the first rank has to say: the report's lines, what is wrong, and all figures by name."""

    lines: list[str]
    problems: list[Problem]
    details: dict[str, Any]
    nodes: int


@dataclass
class _Course:
    """An examination under way on this rank."""

    seat: Seat
    checks: Checks
    meeting: Meeting
    examined: Examined = field(default_factory=Examined)
    nodes: list[Node] = field(default_factory=list)
    number: int = 0
    stuck: bool = False

    @property
    def speaks(self) -> bool:
        """Whether this is its node's first rank, which finds out what is the node's."""
        return self.nodes[self.number].ranks[0] == self.seat.rank

    def exchange(self, stage: str, note: Any, seconds: float | None = None) -> list[Any]:
        """Every node's note, on the first rank; see :meth:`Meeting.exchange`."""
        notes = self.meeting.exchange(stage, note if self.speaks else None, seconds or self.checks.wait)
        return [notes[node.ranks[0]] for node in self.nodes] if notes else []

    def within(self, worker: ThreadPoolExecutor, work: Callable[[], T], seconds: float) -> tuple[T | None, str | None]:
        """What the work gives, or the error; a work that does not end is left behind."""
        try:
            return worker.submit(work).result(timeout=seconds), None
        except TimeoutError:
            self.stuck = True
            return None, f"no end in {seconds:g} s"
        except RuntimeError as error:
            return None, first_line(error)


def examine(seat: Seat, checks: Checks) -> tuple[Findings | None, bool]:
    """Take part; the findings on the first rank, and whether a thread hangs, so that the process has to be ended hard.

    Raises:
        Apart: this rank and the first one do not reach each other; a thread may hang.
    """
    course = _Course(seat, checks, Meeting(seat, checks.wait))
    gone: list[int] = []
    try:
        _come(course)
        _own_facts(course)
        _storage(course)
        _clocks(course)
        if seat.size > 1:
            _links(course)
    except Absent as error:
        gone = error.ranks
        # Those that never came are told of where it was found out.
        if course.nodes:
            course.examined.failed.append(absent(error.stage, checks.wait, course.nodes, gone))
    except Dismissed:
        pass
    course.meeting.leave(gone)
    if not seat.first:
        return None, course.stuck
    examined = course.examined
    findings = Findings(lines_of(examined), judge(examined), asdict(examined), len(examined.nodes))
    return findings, course.stuck


def _come(course: _Course) -> None:
    seat, wait = course.seat, course.checks.wait
    try:
        names = course.meeting.exchange("start", seat.node, wait)
    except Absent as error:
        came = course.meeting.notes("start", [rank for rank in range(seat.size) if rank not in error.ranks])
        course.examined.failed.append(never_came(wait, seat.size, came, seat.expected))
        raise
    ranks: dict[str, list[int]] = {}
    for rank, name in enumerate(names):
        ranks.setdefault(name, []).append(rank)
    roster = course.meeting.told("roster", list(ranks.items()), wait)
    course.nodes = [Node(name, members) for name, members in roster]
    course.examined.nodes = course.nodes
    course.number = next(number for number, node in enumerate(course.nodes) if seat.rank in node.ranks)


def _own_facts(course: _Course) -> None:
    note = asdict(facts_of_node(course.checks.cache)) if course.speaks else None
    course.examined.facts = [_facts(found) for found in course.exchange("facts", note)]


def _facts(note: dict[str, Any]) -> NodeFacts:
    spaces = {name: _space(note[name]) for name in ("temporary", "shared_memory", "cache")}
    return NodeFacts(**(note | spaces))


def _space(note: dict[str, Any] | None) -> Space | None:
    return None if note is None else Space(**note)


def _storage(course: _Course) -> None:
    """Store, on all nodes at once, then run folder."""
    checks, seat = course.checks, course.seat
    url = course.examined.store = checks.store
    if url is not None:
        note = None
        if course.speaks:
            place = (url, course.number, len(course.nodes), checks.short)
            reading, error = course.within(ThreadPoolExecutor(1), lambda: read_store(*place), checks.wait)
            note = asdict(reading or StoreReading(error=error))
        notes = course.exchange("store", note, checks.wait + GRACE)
        course.examined.stores = [StoreReading(**note) for note in notes]
    folder = Path(checks.run_dir).expanduser()
    course.examined.run_dir = str(folder)
    mark = f".doctor-{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
    written = seat.first and leave_mark(folder, mark) is None
    # Nobody looks into the folder before the mark is there.
    mark = course.meeting.told("mark", mark if written else None, checks.wait)
    look = read_folder(folder, mark, f".doctor-node-{course.number}-{time.time_ns()}") if course.speaks else None
    try:
        notes = course.exchange("run folder", look and asdict(look))
    finally:
        if written:
            (folder / mark).unlink(missing_ok=True)
    course.examined.folders = [FolderReading(**(note | {"space": _space(note["space"])})) for note in notes]


def _clocks(course: _Course) -> None:
    wait = course.checks.wait
    offset = 0.0
    for number in range(1, len(course.nodes)):
        if course.seat.first:
            # Who does not ask is found missing below.
            with suppress(RuntimeError):
                answer_clock(course.meeting, number, wait)
        elif number == course.number and course.speaks:
            offset = ask_clock(course.meeting, number, wait * number + GRACE)
    course.examined.clocks = [float(note) for note in course.exchange("clocks", offset)]


def _links(course: _Course) -> None:
    """All-reduce, then pairs of nodes; what comes to a stand is left behind, and the group with it."""
    checks, examined, meeting, worker = course.checks, course.examined, course.meeting, ThreadPoolExecutor(1)
    # Ranks on different kinds of devices would wait for each other in different libraries.
    if not meeting.told("one kind", len({facts.kind for facts in examined.facts}) == 1, checks.wait):
        return
    links: list[Links] = []

    def together() -> AllReduce:
        store = apart(meeting.another_store(checks.wait))
        links.append(Links(course.seat, store, checks.wait, checks.short))
        return links[0].all_reduce()

    notes = _measured(course, worker, "all-reduce", together)
    if notes and not examined.failed:
        sums = [AllReduce(**found) for found, _ in notes]
        seconds = None if checks.short else max(one.seconds or 0.0 for one in sums)
        examined.all_reduce = AllReduce(sums[0].bytes, seconds, all(one.right for one in sums))
    amount = meeting.told("amount", examined.all_reduce and _amount(examined.all_reduce), checks.wait)
    if amount is not None and len(course.nodes) > 1:
        firsts = [node.ranks[0] for node in course.nodes]
        rounds = schedule(len(firsts))
        notes = _measured(course, worker, "pairs of nodes", lambda: links[0].pairs(rounds, firsts, amount))
        examined.pairs = _slower_side([PairRate(**pair) for found, _ in notes for pair in found or []])
    if not course.stuck:
        course.within(worker, links[0].close, GRACE)


def _amount(found: AllReduce) -> int | None:
    """Bytes that two nodes exchange at a time, for a fraction of a second; none if nothing is to be timed."""
    if found.seconds is None:
        return None
    return max(_LEAST_AMOUNT, min(found.bytes, int(found.bytes / found.seconds * _EXCHANGE_SECONDS)))


def _measured(course: _Course, worker: ThreadPoolExecutor, stage: str, work: Callable[[], Any]) -> list[Any]:
    """What every rank measured and its error, on the first rank, where errors are problems."""
    # The group's own limit comes first: its errors say more.
    patience, began = course.checks.wait + GRACE, time.monotonic()
    found, error = course.within(worker, work, patience)
    note = [asdict(one) for one in found] if isinstance(found, list) else found and asdict(found)
    # All began at about the same time, so whoever waited in vain has given up by now.
    left = max(GRACE, patience + GRACE - (time.monotonic() - began))
    notes = course.meeting.exchange(stage, (note, error), left)
    course.examined.failed += _link_problems(course.nodes, notes, stage)
    return notes


def _link_problems(nodes: list[Node], notes: list[Any], stage: str) -> list[Problem]:
    """One for each error, with the nodes that had it."""
    of_error: dict[str, list[str]] = {}
    for node in nodes:
        for rank in node.ranks:
            if notes and notes[rank][1] is not None:
                of_error.setdefault(notes[rank][1], []).append(node.name)
    return [
        Problem(
            ", ".join(dict.fromkeys(names)),
            f"{stage} failed: {error}",
            "see that nodes reach each other on the interface that is used (NETWORK_INTERFACE in slurm/site.env; "
            "GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME), at any port, and that no name leads to 127.0.0.1",
        )
        for error, names in of_error.items()
    ]


def _slower_side(measured: list[PairRate]) -> list[PairRate]:
    """One rate for each pair, of the two that its nodes have measured."""
    rates: dict[tuple[int, int], float] = {}
    for pair in measured:
        key = (pair.nodes[0], pair.nodes[1])
        rates[key] = min(pair.rate, rates.get(key, pair.rate))
    return [PairRate(nodes, rate) for nodes, rate in sorted(rates.items())]
