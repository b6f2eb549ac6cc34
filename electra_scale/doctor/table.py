"""What was found, as lines: one for each node, then what nodes measured together."""

from __future__ import annotations

from statistics import median

from electra_scale.doctor.facts import NodeFacts
from electra_scale.doctor.pairs import MOST_NODES
from electra_scale.doctor.verdict import Examined, Problem, size

_MOST_LINES = 6


def lines_of(examined: Examined) -> list[str]:
    """The report without its problems."""
    lines = _nodes(examined)
    if examined.facts:
        versions = examined.facts[0].versions
        same = [name for name in versions if len({node.versions.get(name) for node in examined.facts}) == 1]
        differing = [name for name in versions if name not in same]
        lines.append(f"the same on all: {', '.join(f'{name} {versions[name]}' for name in same)}")
        if differing:
            lines.append(f"not the same: {', '.join(differing)}")
    if examined.all_reduce is not None:
        found = examined.all_reduce
        ranks = sum(len(node.ranks) for node in examined.nodes)
        rate = "" if found.seconds is None else f"{found.seconds:.3f} s, {size(found.bytes / found.seconds)}/s, "
        right = "right" if found.right else "WRONG"
        lines.append(f"all-reduce of {size(found.bytes)} over {ranks} ranks: {rate}the sum is {right}")
    return lines + _pairs(examined)


def verdict_line(problems: list[Problem], nodes: int) -> str:
    """The last line: ``healthy`` or how much is wrong."""
    bad = sum(problem.kind != "warning" for problem in problems)
    warnings = len(problems) - bad
    more = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    if bad:
        return f"verdict: {bad} problem{'s' if bad > 1 else ''}{more}"
    return f"verdict: healthy, {nodes} node{'s' if nodes > 1 else ''}{more}"


def _nodes(examined: Examined) -> list[str]:
    if not examined.nodes:
        return []
    rows = [["node", "ranks", "devices", "clock", "/dev/shm", "tmp", "run folder", "store"]]
    for number, node in enumerate(examined.nodes):
        facts = examined.facts[number] if examined.facts else None
        rows.append(
            [
                node.name,
                str(len(node.ranks)),
                *_own(facts),
                _run_folder(examined, number),
                _store(examined, number),
            ]
        )
        rows[-1].insert(3, f"{examined.clocks[number]:+.4f} s" if examined.clocks else "-")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _own(facts: NodeFacts | None) -> list[str]:
    if facts is None:
        return ["-", "-", "-"]
    shared = "none" if facts.shared_memory is None else size(facts.shared_memory.free)
    return [f"{facts.devices} x {facts.device}", shared, size(facts.temporary.free)]


def _run_folder(examined: Examined, number: int) -> str:
    if not examined.folders:
        return "-"
    folder = examined.folders[number]
    if not folder.seen or folder.error is not None:
        return "not writable" if folder.error is not None else "not shared"
    return "-" if folder.space is None else size(folder.space.free)


def _store(examined: Examined, number: int) -> str:
    if not examined.stores:
        return "-"
    store = examined.stores[number]
    if store.error is not None:
        return "not readable"
    return f"{size(store.rate)}/s" if store.seconds else "there"


def _pairs(examined: Examined) -> list[str]:
    pairs = sorted(examined.pairs, key=lambda pair: pair.rate)
    if not pairs:
        return []
    names = [node.name for node in examined.nodes]

    def told(number: int) -> str:
        first, second = pairs[number].nodes
        return f"{names[first]} - {names[second]} {size(pairs[number].rate)}/s"

    kind = "neighbours in a ring" if len(names) > MOST_NODES else "every pair of nodes"
    if len(pairs) <= _MOST_LINES:
        return [f"each way between two nodes ({kind}): {', '.join(told(number) for number in range(len(pairs)))}"]
    middle = size(median(pair.rate for pair in pairs))
    return [
        f"each way between two nodes ({kind}, {len(pairs)}): slowest {told(0)}, median {middle}/s, "
        f"fastest {told(len(pairs) - 1)}"
    ]
