"""From the results of an examination to what is wrong and what to do about it: pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from electra_scale.doctor.facts import NodeFacts, Space
from electra_scale.doctor.links import AllReduce, PairRate
from electra_scale.doctor.storage import FolderReading, StoreReading

CLOCK_WARNS = 1.0
"""Seconds: above, the logs of several nodes cannot be put in order, and ranks, each by its own clock, end their time
slices at different times."""

CLOCK_FAILS = 300.0
"""Seconds: munge, by which SLURM's nodes trust each other, refuses older messages; S3 refuses signatures at 900."""

TEMPORARY_LEAST = 10**9
"""Bytes: compiled kernels and the files of a converted checkpoint go to the temporary folder."""

RUN_LEAST = 10**9
RUN_WARNS = 20 * 10**9
"""Bytes: a checkpoint has 16 for each parameter, about 2 GB for the base recipe and 6 GB for the large one, and the
folder holds those that are kept and the one that is being written."""

CACHE_LEAST = 10**9
"""Bytes: less does not hold the shards that a node reads from at the same time."""

SHARED_MEMORY_LEAST = 10**9
"""Bytes in /dev/shm, by which NCCL moves data between the ranks of a node: its manual asks for 1 GB, and containers
have 64 MB by default."""

SLOW = 0.5
"""Share of the median rate below which a pair of nodes, or a node's reading of the store, counts as slow."""


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and what to do. The kinds: a ``warning`` does not keep a run from starting, a ``problem``
    does, and one ``on_any_nodes`` would be the same on other nodes, so that only the user can put it right."""

    where: str
    what: str
    advice: str
    kind: Literal["warning", "problem", "on_any_nodes"] = "problem"

    def line(self) -> str:
        """One line for the user."""
        head = "warning" if self.kind == "warning" else "problem"
        return f"{head}: {self.where}: {self.what}; {self.advice}"


@dataclass(frozen=True)
class Node:
    """A node and the ranks on it."""

    name: str
    ranks: list[int]


@dataclass
class Results:
    """What is known so far. Lists are in the order of ``nodes``; a stage that was not reached leaves its list empty."""

    nodes: list[Node] = field(default_factory=list)
    facts: list[NodeFacts] = field(default_factory=list)
    store: str | None = None
    stores: list[StoreReading] = field(default_factory=list)
    run_dir: str = ""
    folders: list[FolderReading] = field(default_factory=list)
    clocks: list[float] = field(default_factory=list)
    all_reduce: AllReduce | None = None
    pairs: list[PairRate] = field(default_factory=list)
    failed: list[Finding] = field(default_factory=list)
    """What ended the examination early."""


def exit_code(findings: list[Finding]) -> int:
    """0 without a problem, 1 with one that other nodes may not have, 2 with one that any nodes would have."""
    kinds = {finding.kind for finding in findings}
    return 2 if "on_any_nodes" in kinds else 1 if "problem" in kinds else 0


def find(results: Results) -> list[Finding]:
    """All that is wrong, problems before warnings."""
    names = [node.name for node in results.nodes]
    found = [*results.failed]
    if results.facts:
        found += _versions(names, results.facts)
        found += _devices(names, results.facts)
        for name, facts in zip(names, results.facts, strict=True):
            found += _spaces(name, facts)
    if results.stores:
        found += _stores(names, results.store or "", results.stores)
    if results.folders:
        found += _folders(names, results.run_dir, results.folders)
    if results.clocks:
        found += _clocks(names, results.clocks)
    if results.all_reduce is not None and not results.all_reduce.right:
        found.append(
            Finding(
                "all-reduce",
                "the sum over all ranks is wrong",
                "a link or a device corrupts data: leave out one node after another until the sum is right, and have "
                "that node examined",
            )
        )
    found += _pairs(names, results.pairs)
    return sorted(found, key=lambda finding: finding.kind == "warning")


def timed_out(stage: str, seconds: float, nodes: list[Node], ranks: list[int]) -> Finding:
    """Ranks that connected, and then did not answer at a stage."""
    where = [node.name for node in nodes if set(node.ranks) & set(ranks)]
    return Finding(
        ", ".join(where),
        f"{_ranks(ranks)} did not answer within {seconds:g} s at stage {stage}",
        "the process died or hangs, or its network is down: check the node, or leave it out",
    )


def never_connected(seconds: float, size: int, connected: dict[int, str], expected: dict[str, int]) -> Finding:
    """Ranks that never connected. Their nodes are those with fewer ranks than ``expected``, if that is known.

    ``connected`` is the node of each rank that did connect, of ``size`` ranks in all.
    """
    ranks = [rank for rank in range(size) if rank not in connected]
    counts = Counter(connected.values())
    short = [node for node, tasks in expected.items() if counts[node] < tasks]
    return Finding(
        ", ".join(short) or "an unknown node",
        f"{_ranks(ranks)} of {size} did not connect within {seconds:g} s",
        "the process has not started, hangs, or cannot reach the first node: check the node, or leave it out",
    )


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"


def _others(names: list[str], values: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The value that most nodes have (the first of several as frequent), and the nodes that have another one."""
    usual = Counter(values).most_common(1)[0][0]
    return usual, [(name, value) for name, value in zip(names, values, strict=True) if value != usual]


def _versions(names: list[str], facts: list[NodeFacts]) -> Iterable[Finding]:
    for package in dict.fromkeys(package for node in facts for package in node.versions):
        usual, others = _others(names, [node.versions.get(package, "missing") for node in facts])
        for name, value in others:
            if package == "driver":
                what = f"has GPU driver {value}, the other nodes have {usual}"
                yield Finding(name, what, "install the same driver on all nodes", "warning")
            elif package == "source":
                yield Finding(
                    name,
                    f"has other source files of electra-scale than the other nodes ({value}, not {usual})",
                    "check out the same commit on all nodes",
                )
            else:
                own = f"no {package}" if value == "missing" else f"{package} {value}"
                theirs = "none" if usual == "missing" else usual
                yield Finding(
                    name,
                    f"has {own}, the other nodes have {theirs}",
                    "install the same version in that node's python",
                )
        if usual == "missing" and not others:
            yield Finding(
                "all nodes",
                f"{package} is not installed",
                "install electra-scale in the python that is used",
                "on_any_nodes",
            )


def _devices(names: list[str], facts: list[NodeFacts]) -> Iterable[Finding]:
    usual, others = _others(names, [node.kind for node in facts])
    for name, value in others:
        yield Finding(name, f"trains on {value}, the other nodes on {usual}", "check its driver, or leave it out")
    if others:
        return
    for what, values, advice in (
        ("kind", [node.device for node in facts], "all ranks wait for the slowest one"),
        ("number", [str(node.devices) for node in facts], "start the same number of ranks on each node"),
    ):
        usual, others = _others(names, values)
        for name, value in others:
            yield Finding(name, f"the {what} of devices is {value}, on the other nodes {usual}", advice, "warning")


def _spaces(name: str, facts: NodeFacts) -> Iterable[Finding]:
    yield from _too_small(name, facts.temporary, TEMPORARY_LEAST, "free some space there or set TMPDIR")
    if facts.cache is not None:
        yield from _too_small(name, facts.cache, CACHE_LEAST, "free some space there or set data.cache.folder")
    shared = facts.shared_memory
    if shared is None or shared.free < SHARED_MEMORY_LEAST:
        what = "there is no /dev/shm" if shared is None else f"/dev/shm has {size(shared.free)} free"
        yield Finding(
            name,
            f"{what}, and NCCL needs {size(SHARED_MEMORY_LEAST)} there for the ranks of a node",
            "delete leftover files there, or give the container more (docker: --shm-size=1g or --ipc=host)",
            "problem" if facts.kind == "gpu" else "warning",
        )


def _too_small(name: str, space: Space, least: int, advice: str) -> Iterable[Finding]:
    if space.free < least:
        yield Finding(name, f"{space.path} has {size(space.free)} free, less than {size(least)}", advice)


def _stores(names: list[str], url: str, stores: list[StoreReading]) -> Iterable[Finding]:
    # If no node can read the store for a lasting reason, other nodes could not either.
    everywhere = all(store.lasting for store in stores)
    alike = everywhere and len({store.error for store in stores}) == 1
    for name, store in zip(names, stores, strict=True):
        if store.error is not None:
            yield Finding(
                "all nodes" if alike else name,
                f"the store {url} cannot be read: {store.error}",
                "no run can start without it" if everywhere else "check that this node reaches it as the others do",
                "on_any_nodes" if everywhere else "problem",
            )
            if alike:
                return
    read = [(name, store) for name, store in zip(names, stores, strict=True) if store.error is None]
    if not read:
        return
    usual, others = _others([name for name, _ in read], [store.fingerprint for _, store in read])
    for name, value in others:
        yield Finding(
            name,
            f"finds another store at {url}: its fingerprint is {value[:12]}, on the other nodes it is {usual[:12]}",
            "name a store that all nodes share, or copy it to this node again",
        )
    rates = {name: store.rate for name, store in read if store.seconds}
    for name, rate in _slow(rates):
        yield Finding(
            name,
            f"reads the store at {size(rate)}/s, the median of all nodes is {size(median(rates.values()))}/s",
            "check its network: a run waits for its slowest node",
            "warning",
        )


def _folders(names: list[str], run_dir: str, folders: list[FolderReading]) -> Iterable[Finding]:
    # If no node can write there, other nodes could not either.
    everywhere = all(folder.error is not None for folder in folders)
    for name, folder in zip(names, folders, strict=True):
        if folder.error is not None:
            yield Finding(
                "all nodes" if everywhere else name,
                f"the run folder {run_dir} cannot be written ({folder.error})",
                "every rank writes its part of a checkpoint there: set --run_dir to a folder that all nodes can write",
                "on_any_nodes" if everywhere else "problem",
            )
            if everywhere:
                return
        elif not folder.seen:
            yield Finding(
                name,
                f"the run folder {run_dir} is not shared with the first node: its file does not appear here",
                "put it on storage that all nodes share (--run_dir), at the same path",
            )
        elif folder.space is not None and folder.space.free < RUN_WARNS:
            yield Finding(
                name,
                f"the run folder {run_dir} has {size(folder.space.free)} free",
                "free some space: a run ends if the disk is full when it saves",
                "problem" if folder.space.free < RUN_LEAST else "warning",
            )


def _clocks(names: list[str], clocks: list[float]) -> Iterable[Finding]:
    for name, offset in zip(names, clocks, strict=True):
        if abs(offset) > CLOCK_WARNS:
            yield Finding(
                name,
                f"its clock is {abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} {names[0]}'s",
                "have NTP set it: the end of a time slice, SLURM's requeue and S3's signatures depend on it",
                "problem" if abs(offset) > CLOCK_FAILS else "warning",
            )


def _pairs(names: list[str], pairs: list[PairRate]) -> Iterable[Finding]:
    rates = {f"{names[pair.nodes[0]]} - {names[pair.nodes[1]]}": pair.rate for pair in pairs}
    for name, rate in _slow(rates):
        yield Finding(
            name,
            f"{size(rate)}/s between them, the median of all pairs is {size(median(rates.values()))}/s",
            "check cable, port and interface of the node that is in several slow pairs: each step waits for it",
            "warning",
        )


def _slow(rates: dict[str, float]) -> Iterable[tuple[str, float]]:
    if rates:
        limit = SLOW * median(rates.values())
        yield from ((name, rate) for name, rate in rates.items() if rate < limit)


def size(number: float) -> str:
    """A number of bytes with its unit; 1 GB is 10^9 bytes."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"
