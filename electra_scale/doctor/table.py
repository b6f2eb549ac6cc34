"""The results as lines to print: one for each node, then what the nodes measured together."""

from __future__ import annotations

from statistics import median

from electra_scale.doctor.facts import NodeFacts
from electra_scale.doctor.findings import Finding, Results, size
from electra_scale.doctor.links import MOST_NODES

_MOST_LINES = 6


def lines_of(results: Results) -> list[str]:
    """The report without its findings."""
    lines = _nodes(results)
    if results.facts:
        versions = results.facts[0].versions
        same = [name for name in versions if len({node.versions.get(name) for node in results.facts}) == 1]
        differing = [name for name in versions if name not in same]
        lines.append(f"the same on all: {', '.join(f'{name} {versions[name]}' for name in same)}")
        if differing:
            lines.append(f"not the same: {', '.join(differing)}")
    if results.all_reduce is not None:
        found = results.all_reduce
        ranks = sum(len(node.ranks) for node in results.nodes)
        rate = "" if found.seconds is None else f"{found.seconds:.3f} s, {size(found.bytes / found.seconds)}/s, "
        right = "right" if found.right else "WRONG"
        lines.append(f"all-reduce of {size(found.bytes)} over {ranks} ranks: {rate}the sum is {right}")
    return lines + _pairs(results)


def result_line(findings: list[Finding], nodes: int) -> str:
    """The last line: ``healthy``, or how many problems and warnings there are."""
    bad = sum(finding.kind != "warning" for finding in findings)
    warnings = len(findings) - bad
    more = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    if bad:
        return f"result: {bad} problem{'s' if bad > 1 else ''}{more}"
    return f"result: healthy, {nodes} node{'s' if nodes > 1 else ''}{more}"


def _nodes(results: Results) -> list[str]:
    if not results.nodes:
        return []
    rows = [["node", "ranks", "devices", "clock", "/dev/shm", "tmp", "run folder", "store"]]
    for number, node in enumerate(results.nodes):
        facts = results.facts[number] if results.facts else None
        rows.append(
            [
                node.name,
                str(len(node.ranks)),
                *_node_facts(facts),
                _run_folder(results, number),
                _store(results, number),
            ]
        )
        rows[-1].insert(3, f"{results.clocks[number]:+.4f} s" if results.clocks else "-")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _node_facts(facts: NodeFacts | None) -> list[str]:
    if facts is None:
        return ["-", "-", "-"]
    shared = "none" if facts.shared_memory is None else size(facts.shared_memory.free)
    return [f"{facts.devices} x {facts.device}", shared, size(facts.temporary.free)]


def _run_folder(results: Results, number: int) -> str:
    if not results.folders:
        return "-"
    folder = results.folders[number]
    if not folder.seen or folder.error is not None:
        return "not writable" if folder.error is not None else "not shared"
    return "-" if folder.space is None else size(folder.space.free)


def _store(results: Results, number: int) -> str:
    if not results.stores:
        return "-"
    store = results.stores[number]
    if store.error is not None:
        return "not readable"
    return f"{size(store.rate)}/s" if store.seconds else "readable"


def _pairs(results: Results) -> list[str]:
    pairs = sorted(results.pairs, key=lambda pair: pair.rate)
    if not pairs:
        return []
    names = [node.name for node in results.nodes]

    def rate(number: int) -> str:
        first, second = pairs[number].nodes
        return f"{names[first]} - {names[second]} {size(pairs[number].rate)}/s"

    kind = "neighbours in a ring" if len(names) > MOST_NODES else "every pair of nodes"
    if len(pairs) <= _MOST_LINES:
        return [f"each way between two nodes ({kind}): {', '.join(rate(number) for number in range(len(pairs)))}"]
    middle = size(median(pair.rate for pair in pairs))
    return [
        f"each way between two nodes ({kind}, {len(pairs)}): slowest {rate(0)}, median {middle}/s, "
        f"fastest {rate(len(pairs) - 1)}"
    ]
