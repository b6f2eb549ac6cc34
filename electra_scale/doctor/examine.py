"""The examination itself, on every rank: stage by stage, and at each stage the first rank waits for all others."""

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

from electra_scale.doctor.facts import NodeFacts, Space, facts_of_node
from electra_scale.doctor.findings import Finding, Node, Results, find, never_connected, timed_out
from electra_scale.doctor.links import AllReduce, Links, PairRate, pair_schedule
from electra_scale.doctor.rendezvous import GRACE, Aborted, Rank, Rendezvous, TimedOut, group_store
from electra_scale.doctor.storage import FolderReading, StoreReading, leave_mark, read_folder, read_store
from electra_scale.doctor.table import lines_of
from electra_scale.train.engine.rendezvous import first_line

T = TypeVar("T")

_EXCHANGE_SECONDS = 0.25
_LEAST_AMOUNT = 10**6
_CLOCK_TURNS = 8


@dataclass(frozen=True)
class Checks:
    """What to examine. Each stage may take ``wait`` seconds; ``short`` checks that all works and measures no rates."""

    run_dir: str = "."
    store: str | None = None
    cache: str | None = None
    short: bool = False
    wait: float = 60.0


@dataclass(frozen=True)
class Report:
    """The outcome of an examination, on the first rank: lines to print, what is wrong, and all figures by name."""

    lines: list[str]
    findings: list[Finding]
    details: dict[str, Any]
    nodes: int


@dataclass
class _Examination:
    """An examination under way on this rank. ``number`` is that of its node."""

    rank: Rank
    checks: Checks
    rendezvous: Rendezvous
    results: Results = field(default_factory=Results)
    nodes: list[Node] = field(default_factory=list)
    number: int = 0
    hangs: bool = False

    @property
    def represents_node(self) -> bool:
        """Whether this is its node's first rank, which examines the node."""
        return self.nodes[self.number].ranks[0] == self.rank.number

    def gather_of_nodes(self, stage: str, value: Any, seconds: float | None = None) -> list[Any]:
        """Every node's value, on the first rank; see :meth:`Rendezvous.gather`."""
        values = self.rendezvous.gather(stage, value if self.represents_node else None, seconds or self.checks.wait)
        return [values[node.ranks[0]] for node in self.nodes] if values else []

    def within(self, worker: ThreadPoolExecutor, work: Callable[[], T], seconds: float) -> tuple[T | None, str | None]:
        """The result of the work, or its error. Work that takes longer is abandoned in its thread."""
        try:
            return worker.submit(work).result(timeout=seconds), None
        except TimeoutError:
            self.hangs = True
            return None, f"not finished after {seconds:g} s"
        except RuntimeError as error:
            return None, first_line(error)


def examine(rank: Rank, checks: Checks) -> tuple[Report | None, bool]:
    """Take part in an examination; returns the report on the first rank, and whether a thread hangs, in which case the
    caller has to end the process by ``os._exit``.

    Raises:
        Unreachable: this rank and the first one cannot reach each other; a thread may hang.
    """
    examination = _Examination(rank, checks, Rendezvous(rank, checks.wait))
    missing: list[int] = []
    try:
        _connect(examination)
        _examine_nodes(examination)
        _examine_storage(examination)
        _compare_clocks(examination)
        if rank.size > 1:
            _measure_links(examination)
    except TimedOut as error:
        missing = error.ranks
        # _connect itself adds the finding about ranks that never connected.
        if examination.nodes:
            examination.results.failed.append(timed_out(error.stage, checks.wait, examination.nodes, missing))
    except Aborted:
        pass
    examination.rendezvous.leave(missing)
    if not rank.first:
        return None, examination.hangs
    results = examination.results
    return Report(lines_of(results), find(results), asdict(results), len(results.nodes)), examination.hangs


def _connect(examination: _Examination) -> None:
    """Wait for all ranks, and number the nodes in the order of their first ranks."""
    rank, wait, rendezvous = examination.rank, examination.checks.wait, examination.rendezvous
    try:
        names = rendezvous.gather("start", rank.node, wait)
    except TimedOut as error:
        connected = rendezvous.values("start", [number for number in range(rank.size) if number not in error.ranks])
        examination.results.failed.append(never_connected(wait, rank.size, connected, rank.expected))
        raise
    ranks: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        ranks.setdefault(name, []).append(number)
    roster = rendezvous.broadcast("roster", list(ranks.items()), wait)
    examination.nodes = [Node(name, members) for name, members in roster]
    examination.results.nodes = examination.nodes
    examination.number = next(n for n, node in enumerate(examination.nodes) if rank.number in node.ranks)


def _examine_nodes(examination: _Examination) -> None:
    value = asdict(facts_of_node(examination.checks.cache)) if examination.represents_node else None
    examination.results.facts = [_facts(found) for found in examination.gather_of_nodes("facts", value)]


def _facts(value: dict[str, Any]) -> NodeFacts:
    spaces = {name: _space(value[name]) for name in ("temporary", "shared_memory", "cache")}
    return NodeFacts(**(value | spaces))


def _space(value: dict[str, Any] | None) -> Space | None:
    return None if value is None else Space(**value)


def _examine_storage(examination: _Examination) -> None:
    """The store, read by all nodes at once, then the run folder."""
    checks, rank, results = examination.checks, examination.rank, examination.results
    url = results.store = checks.store
    if url is not None:
        value = None
        if examination.represents_node:
            place = (url, examination.number, len(examination.nodes), checks.short)
            reading, error = examination.within(ThreadPoolExecutor(1), lambda: read_store(*place), checks.wait)
            value = asdict(reading or StoreReading(error=error))
        values = examination.gather_of_nodes("store", value, checks.wait + GRACE)
        results.stores = [StoreReading(**value) for value in values]
    folder = Path(checks.run_dir).expanduser()
    results.run_dir = str(folder)
    mark = f".doctor-{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
    written = rank.first and leave_mark(folder, mark) is None
    # No node looks into the folder before the mark is written.
    mark = examination.rendezvous.broadcast("mark", mark if written else None, checks.wait)
    reading_of_folder = None
    if examination.represents_node:
        reading_of_folder = read_folder(folder, mark, f".doctor-node-{examination.number}-{time.time_ns()}")
    try:
        values = examination.gather_of_nodes("run folder", reading_of_folder and asdict(reading_of_folder))
    finally:
        if written:
            (folder / mark).unlink(missing_ok=True)
    results.folders = [FolderReading(**(value | {"space": _space(value["space"])})) for value in values]


def _compare_clocks(examination: _Examination) -> None:
    wait = examination.checks.wait
    offset = 0.0
    for number in range(1, len(examination.nodes)):
        if examination.rank.first:
            # A node that does not ask is found missing by the gather below.
            with suppress(RuntimeError):
                _answer_clock(examination.rendezvous, number, wait)
        elif number == examination.number and examination.represents_node:
            offset = _ask_clock(examination.rendezvous, number, wait * number + GRACE)
    examination.results.clocks = [float(value) for value in examination.gather_of_nodes("clocks", offset)]


def _answer_clock(rendezvous: Rendezvous, node: int, seconds: float) -> None:
    """On the first rank: send a node the time as often as it asks; raises RuntimeError if it does not ask."""
    for turn in range(_CLOCK_TURNS):
        rendezvous.wait_for_key(f"time/{node}/{turn}", seconds)
        rendezvous.broadcast(f"time/{node}/{turn}/answer", time.time(), seconds)


def _ask_clock(rendezvous: Rendezvous, node: int, seconds: float) -> float:
    """On a node's first rank: seconds by which its clock is ahead of the first node's.

    The answer was given about halfway between question and reply; the quickest of a few turns is the least wrong.
    """
    best, offset = float("inf"), 0.0
    for turn in range(_CLOCK_TURNS):
        asked = time.time()
        rendezvous.set_key(f"time/{node}/{turn}", seconds)
        answer = float(rendezvous.broadcast(f"time/{node}/{turn}/answer", None, seconds))
        replied = time.time()
        if replied - asked < best:
            best, offset = replied - asked, (asked + replied) / 2 - answer
    return offset


def _measure_links(examination: _Examination) -> None:
    """All-reduce, then pairs of nodes. A call that hangs is abandoned, and the process group with it."""
    checks, results, rendezvous = examination.checks, examination.results, examination.rendezvous
    worker = ThreadPoolExecutor(1)
    # Ranks on different kinds of devices would wait for each other in different libraries.
    if not rendezvous.broadcast("one kind", len({facts.kind for facts in results.facts}) == 1, checks.wait):
        return
    links: list[Links] = []

    def all_reduce() -> AllReduce:
        store = group_store(rendezvous.connect(checks.wait))
        links.append(Links(examination.rank, store, checks.wait, checks.short))
        return links[0].all_reduce()

    values = _measured(examination, worker, "all-reduce", all_reduce)
    if values and not results.failed:
        sums = [AllReduce(**found) for found, _ in values]
        seconds = None if checks.short else max(one.seconds or 0.0 for one in sums)
        results.all_reduce = AllReduce(sums[0].bytes, seconds, all(one.right for one in sums))
    amount = rendezvous.broadcast("amount", results.all_reduce and _amount(results.all_reduce), checks.wait)
    if amount is not None and len(examination.nodes) > 1:
        first_ranks = [node.ranks[0] for node in examination.nodes]
        rounds = pair_schedule(len(first_ranks))
        values = _measured(examination, worker, "pairs of nodes", lambda: links[0].pairs(rounds, first_ranks, amount))
        results.pairs = _slower_side([PairRate(**pair) for found, _ in values for pair in found or []])
    if not examination.hangs:
        examination.within(worker, links[0].close, GRACE)


def _amount(found: AllReduce) -> int | None:
    """Bytes that two nodes exchange at a time, for a fraction of a second; None if nothing is to be timed."""
    if found.seconds is None:
        return None
    return max(_LEAST_AMOUNT, min(found.bytes, int(found.bytes / found.seconds * _EXCHANGE_SECONDS)))


def _measured(examination: _Examination, worker: ThreadPoolExecutor, stage: str, work: Callable[[], Any]) -> list[Any]:
    """What every rank measured and its error, on the first rank, where errors become findings."""
    # The process group's own time limit comes first: its errors are clearer.
    limit, began = examination.checks.wait + GRACE, time.monotonic()
    found, error = examination.within(worker, work, limit)
    value = [asdict(one) for one in found] if isinstance(found, list) else found and asdict(found)
    # All ranks began at about the same time, so each one that waited in vain has given up by then.
    left = max(GRACE, limit + GRACE - (time.monotonic() - began))
    values = examination.rendezvous.gather(stage, (value, error), left)
    examination.results.failed += _failed_links(examination.nodes, values, stage)
    return values


def _failed_links(nodes: list[Node], values: list[Any], stage: str) -> list[Finding]:
    """One finding for each error, with the nodes that had it."""
    of_error: dict[str, list[str]] = {}
    for node in nodes:
        for rank in node.ranks:
            if values and values[rank][1] is not None:
                of_error.setdefault(values[rank][1], []).append(node.name)
    return [
        Finding(
            ", ".join(dict.fromkeys(names)),
            f"{stage} failed: {error}",
            "check that the nodes reach each other at any port on the interface that is used (NETWORK_INTERFACE in "
            "slurm/site.env; GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME), and that no host name resolves to 127.0.0.1",
        )
        for error, names in of_error.items()
    ]


def _slower_side(measured: list[PairRate]) -> list[PairRate]:
    """One rate for each pair: the lower of the two that its nodes have measured."""
    rates: dict[tuple[int, int], float] = {}
    for pair in measured:
        key = (pair.nodes[0], pair.nodes[1])
        rates[key] = min(pair.rate, rates.get(key, pair.rate))
    return [PairRate(nodes, rate) for nodes, rate in sorted(rates.items())]
