"""From what was found to what is wrong: pure functions."""

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
"""Seconds: logs of several nodes cannot be put in order, and the end of a time slice, which each rank reads off its
own clock, comes at different times."""

CLOCK_FAILS = 300.0
"""Seconds: munge, by which SLURM's nodes trust each other, refuses what is older; S3 refuses a signature at 900."""

TEMPORARY_LEAST = 10**9
"""Bytes: compiled kernels and the files of a converted checkpoint go to the temporary folder."""

RUN_LEAST = 10**9
RUN_WARNS = 20 * 10**9
"""Bytes: a checkpoint has 16 for each parameter, some 2 GB for recipes/base.yaml and 6 for the large one, and there
are always those that are kept and one that is being written."""

CACHE_LEAST = 10**9
"""Bytes: less does not hold the shards that a node reads from at the same time."""

SHARED_MEMORY_LEAST = 10**9
"""Bytes in /dev/shm: ranks of a node exchange data there by NCCL, whose manual asks for 1 GB; containers have 64 MB."""

SLOW = 0.5
"""Share of the median rate below which a pair of nodes, or a node's reading of the store, stands out."""


@dataclass(frozen=True)
class Problem:
    """What is wrong, where, and what to do. A warning fails nothing; what is refused would be so on any nodes."""

    where: str
    what: str
    advice: str
    kind: Literal["warning", "problem", "refused"] = "problem"

    def line(self) -> str:
        head = "warning" if self.kind == "warning" else "problem"
        return f"{head}: {self.where}: {self.what}; {self.advice}"


@dataclass(frozen=True)
class Node:
    """A node and the ranks on it."""

    name: str
    ranks: list[int]


@dataclass
class Examined:
    """What is known so far; lists are in the order of ``nodes``, and empty where it did not come to that."""

    nodes: list[Node] = field(default_factory=list)
    facts: list[NodeFacts] = field(default_factory=list)
    store: str | None = None
    stores: list[StoreReading] = field(default_factory=list)
    run_dir: str = ""
    folders: list[FolderReading] = field(default_factory=list)
    clocks: list[float] = field(default_factory=list)
    all_reduce: AllReduce | None = None
    pairs: list[PairRate] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)
    """What ended the examination early."""


def exit_code(problems: list[Problem]) -> int:
    """0 without a problem, 1 with one that other nodes may not have, 2 with one that needs its user."""
    kinds = {problem.kind for problem in problems}
    return 2 if "refused" in kinds else 1 if "problem" in kinds else 0


def judge(examined: Examined) -> list[Problem]:
    """All that is wrong, the gravest first."""
    names = [node.name for node in examined.nodes]
    found = [*examined.failed]
    if examined.facts:
        found += _versions(names, examined.facts)
        found += _devices(names, examined.facts)
        for name, facts in zip(names, examined.facts, strict=True):
            found += _spaces(name, facts)
    if examined.stores:
        found += _stores(names, examined.store or "", examined.stores)
    if examined.folders:
        found += _folders(names, examined.run_dir, examined.folders)
    if examined.clocks:
        found += _clocks(names, examined.clocks)
    if examined.all_reduce is not None and not examined.all_reduce.right:
        found.append(
            Problem(
                "all-reduce",
                "the sum over all ranks is wrong",
                "a link or a device damages data: leave nodes out until it is right, and have the last one examined",
            )
        )
    found += _pairs(names, examined.pairs)
    return sorted(found, key=lambda problem: problem.kind == "warning")


def absent(stage: str, seconds: float, nodes: list[Node], ranks: list[int]) -> Problem:
    """Ranks that came, and then left no sign at a stage."""
    where = [node.name for node in nodes if set(node.ranks) & set(ranks)]
    return Problem(
        ", ".join(where),
        f"no sign of {_ranks(ranks)} in {seconds:g} s at stage {stage}",
        "it died, hangs or is cut off: see the node, or leave it out",
    )


def never_came(seconds: float, size: int, came: dict[int, str], expected: dict[str, int]) -> Problem:
    """Ranks that never came: the nodes are those with fewer than they should have, if the launcher has told."""
    ranks = [rank for rank in range(size) if rank not in came]
    counts = Counter(came.values())
    short = [node for node, tasks in expected.items() if counts[node] < tasks]
    return Problem(
        ", ".join(short) or "a node that is not known",
        f"{_ranks(ranks)} of {size} did not come in {seconds:g} s",
        "its process has not started, hangs, or does not reach the first node: see the node, or leave it out",
    )


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"


def _others(names: list[str], values: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """What most nodes have, the first of them if there are as many, and the nodes that have something else."""
    usual = Counter(values).most_common(1)[0][0]
    return usual, [(name, value) for name, value in zip(names, values, strict=True) if value != usual]


def _versions(names: list[str], facts: list[NodeFacts]) -> Iterable[Problem]:
    for package in dict.fromkeys(package for node in facts for package in node.versions):
        usual, others = _others(names, [node.versions.get(package, "missing") for node in facts])
        for name, value in others:
            if package == "driver":
                yield Problem(name, f"GPU driver {value}, other nodes {usual}", "have one driver on all", "warning")
            elif package == "source":
                yield Problem(
                    name,
                    f"other source of electra-scale than other nodes ({value}, not {usual})",
                    "bring the checkout to the same commit on all nodes",
                )
            else:
                yield Problem(
                    name, f"{package} {value}, other nodes {usual}", "install the same version in that node's python"
                )
        if usual == "missing" and not others:
            yield Problem(
                "all nodes",
                f"{package} is not installed",
                "install electra-scale in the python that is used",
                "refused",
            )


def _devices(names: list[str], facts: list[NodeFacts]) -> Iterable[Problem]:
    usual, others = _others(names, [node.kind for node in facts])
    for name, value in others:
        yield Problem(name, f"trains on {value}, other nodes on {usual}", "see its driver, or leave it out")
    if others:
        return
    for what, values in (
        ("kind of device", [node.device for node in facts]),
        ("number of devices", [str(node.devices) for node in facts]),
    ):
        usual, others = _others(names, values)
        for name, value in others:
            advice = "the slowest rank sets the pace, and each node should have as many ranks"
            yield Problem(name, f"{what}: {value}, other nodes {usual}", advice, "warning")


def _spaces(name: str, facts: NodeFacts) -> Iterable[Problem]:
    yield from _too_small(name, facts.temporary, TEMPORARY_LEAST, "make room there or set TMPDIR")
    if facts.cache is not None:
        yield from _too_small(name, facts.cache, CACHE_LEAST, "make room there or set data.cache.folder")
    shared = facts.shared_memory
    if shared is None or shared.free < SHARED_MEMORY_LEAST:
        what = "there is no /dev/shm" if shared is None else f"/dev/shm has {size(shared.free)} free"
        yield Problem(
            name,
            f"{what}, ranks of a node that exchange data by NCCL need {size(SHARED_MEMORY_LEAST)}",
            "remove what lies there, or give the container more (docker: --shm-size=1g or --ipc=host)",
            "problem" if facts.kind == "gpu" else "warning",
        )


def _too_small(name: str, space: Space, least: int, advice: str) -> Iterable[Problem]:
    if space.free < least:
        yield Problem(name, f"{space.path} has {size(space.free)} free, less than {size(least)}", advice)


def _stores(names: list[str], url: str, stores: list[StoreReading]) -> Iterable[Problem]:
    # Where no node can read it, other nodes can't either.
    everywhere = all(store.lasting for store in stores)
    alike = everywhere and len({store.error for store in stores}) == 1
    for name, store in zip(names, stores, strict=True):
        if store.error is not None:
            yield Problem(
                "all nodes" if alike else name,
                f"the store {url} cannot be read: {store.error}",
                "a run would not start" if everywhere else "see that this node reaches it as the others do",
                "refused" if everywhere else "problem",
            )
            if alike:
                return
    read = [(name, store) for name, store in zip(names, stores, strict=True) if store.error is None]
    if not read:
        return
    usual, others = _others([name for name, _ in read], [store.fingerprint for _, store in read])
    for name, value in others:
        yield Problem(
            name,
            f"another store at {url}: fingerprint {value[:12]}, other nodes {usual[:12]}",
            "give a store that all nodes share, or copy it again",
        )
    rates = {name: store.rate for name, store in read if store.seconds}
    for name, rate in _slow(rates):
        yield Problem(
            name,
            f"reads the store at {size(rate)}/s, the median is {size(median(rates.values()))}/s",
            "see its network; a run waits for its slowest node",
            "warning",
        )


def _folders(names: list[str], run_dir: str, folders: list[FolderReading]) -> Iterable[Problem]:
    # Where no node can write, other nodes can't either.
    everywhere = all(folder.error is not None for folder in folders)
    for name, folder in zip(names, folders, strict=True):
        if folder.error is not None:
            yield Problem(
                "all nodes" if everywhere else name,
                f"the run folder {run_dir} cannot be written ({folder.error})",
                "every rank writes its part of a checkpoint there: set --run_dir to a folder that it may write",
                "refused" if everywhere else "problem",
            )
            if everywhere:
                return
        elif not folder.seen:
            yield Problem(
                name,
                f"the run folder {run_dir} is not the first node's: a file written there does not appear here",
                "put it on storage that all nodes share (--run_dir), at the same path",
            )
        elif folder.space is not None and folder.space.free < RUN_WARNS:
            yield Problem(
                name,
                f"the run folder {run_dir} has {size(folder.space.free)} free",
                "make room: a save that finds none ends the run",
                "problem" if folder.space.free < RUN_LEAST else "warning",
            )


def _clocks(names: list[str], clocks: list[float]) -> Iterable[Problem]:
    for name, offset in zip(names, clocks, strict=True):
        if abs(offset) > CLOCK_WARNS:
            yield Problem(
                name,
                f"its clock is {abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} {names[0]}'s",
                "have it set by NTP: the end of a time slice, SLURM's requeue and S3's signatures go by it",
                "problem" if abs(offset) > CLOCK_FAILS else "warning",
            )


def _pairs(names: list[str], pairs: list[PairRate]) -> Iterable[Problem]:
    rates = {f"{names[pair.nodes[0]]} - {names[pair.nodes[1]]}": pair.rate for pair in pairs}
    for name, rate in _slow(rates):
        yield Problem(
            name,
            f"{size(rate)}/s between them, the median of all pairs is {size(median(rates.values()))}/s",
            "see cable, port and interface of the node that is in several slow pairs; a step waits for it",
            "warning",
        )


def _slow(rates: dict[str, float]) -> Iterable[tuple[str, float]]:
    if rates:
        limit = SLOW * median(rates.values())
        yield from ((name, rate) for name, rate in rates.items() if rate < limit)


def size(number: float) -> str:
    """Bytes, for people: 1 GB is 10^9."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"
