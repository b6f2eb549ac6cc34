"""Each fault gives one finding of its own and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from electra_scale.doctor.facts import NodeFacts, Space
from electra_scale.doctor.findings import Node, Results, exit_code, find, never_connected, timed_out
from electra_scale.doctor.links import AllReduce, PairRate
from electra_scale.doctor.storage import FolderReading, StoreReading
from electra_scale.doctor.table import lines_of, result_line

GB = 10**9
VERSIONS = {"python": "3.11.2", "torch": "2.5.1", "source": "0123456789"}
SPACE = Space("/tmp", 100 * GB, 50 * GB)
FACTS = NodeFacts("host", VERSIONS, "gpu", "NVIDIA H100", 8, SPACE, Space("/dev/shm", 64 * GB, 60 * GB), SPACE)
STORE = StoreReading("a" * 64, 64 * 10**6, 0.5)
FOLDER = FolderReading(True, None, Space("runs/base", 900 * GB, 500 * GB))


def healthy() -> Results:
    """Three nodes with nothing wrong."""
    return Results(
        nodes=[Node("n1", [0, 1]), Node("n2", [2, 3]), Node("n3", [4, 5])],
        facts=[FACTS] * 3,
        store="s3://bucket/store",
        stores=[STORE] * 3,
        run_dir="runs/base",
        folders=[FOLDER] * 3,
        clocks=[0.0, 0.01, -0.02],
        all_reduce=AllReduce(256 * 10**6, 0.1, True),
        pairs=[PairRate((0, 1), 9e9), PairRate((0, 2), 10e9), PairRate((1, 2), 11e9)],
    )


def facts(**changes: object) -> Callable[[Results], None]:
    """Other facts on the second node."""

    def change(results: Results) -> None:
        results.facts[1] = replace(FACTS, **changes)

    return change


def of(name: str, number: int | None, value: object) -> Callable[[Results], None]:
    """Another reading on one node, or on all."""

    def change(results: Results) -> None:
        values = getattr(results, name)
        for place in range(len(values)) if number is None else [number]:
            values[place] = value

    return change


def wrong_sum(results: Results) -> None:
    results.all_reduce = AllReduce(256 * 10**6, 0.1, False)


UNREADABLE = StoreReading(error="no store at /x", lasting=True)
UNANSWERED = StoreReading(error="no answer")


@pytest.mark.parametrize(
    ("fault", "where", "what", "code"),
    [
        (facts(versions=VERSIONS | {"torch": "2.4.0"}), "n2", "has torch 2.4.0, the other nodes have 2.5.1", 1),
        (facts(versions=VERSIONS | {"source": "9876543210"}), "n2", "has other source files of electra-scale", 1),
        (facts(versions=VERSIONS | {"torch": "missing"}), "n2", "has no torch, the other nodes have 2.5.1", 1),
        (facts(kind="cpu", device="CPU core", devices=64), "n2", "trains on cpu, the other nodes on gpu", 1),
        (facts(device="NVIDIA A100"), "n2", "the kind of devices is NVIDIA A100, on the other nodes NVIDIA H100", 0),
        (facts(devices=7), "n2", "the number of devices is 7, on the other nodes 8", 0),
        (facts(temporary=Space("/tmp", 100 * GB, GB - 1)), "n2", "/tmp has 1000.0 MB free, less than 1.0 GB", 1),
        (facts(cache=Space("/cache", 100 * GB, 10**6)), "n2", "/cache has 1.0 MB free, less than 1.0 GB", 1),
        (facts(shared_memory=Space("/dev/shm", 64 * 10**6, 64 * 10**6)), "n2", "/dev/shm has 64.0 MB free", 1),
        (facts(shared_memory=None), "n2", "there is no /dev/shm", 1),
        (of("stores", 1, UNREADABLE), "n2", "the store s3://bucket/store cannot be read: no store at /x", 1),
        (of("stores", 1, UNANSWERED), "n2", "cannot be read: no answer", 1),
        (of("stores", None, UNREADABLE), "all nodes", "cannot be read: no store at /x", 2),
        (of("stores", 2, replace(STORE, fingerprint="b" * 64)), "n3", "finds another store", 1),
        (of("stores", 0, replace(STORE, seconds=2.0)), "n1", "reads the store at 32.0 MB/s", 0),
        (of("folders", 1, FolderReading(False)), "n2", "is not shared with the first node", 1),
        (of("folders", 1, FolderReading(True, "runs: Permission denied")), "n2", "cannot be written (runs: Perm", 1),
        (of("folders", 2, FolderReading(True, None, Space("r", GB, 10))), "n3", "has 0 kB free", 1),
        (of("folders", 2, FolderReading(True, None, Space("r", GB, 10 * GB))), "n3", "has 10.0 GB free", 0),
        (of("clocks", 1, 1.5), "n2", "its clock is 1.5 s ahead of n1's", 0),
        (of("clocks", 2, -301.0), "n3", "its clock is 301.0 s behind n1's", 1),
        (wrong_sum, "all-reduce", "the sum over all ranks is wrong", 1),
        (of("pairs", 2, PairRate((1, 2), 4.4e9)), "n2 - n3", "4.4 GB/s between them", 0),
    ],
)
def test_a_fault_is_one_finding_with_its_node(
    fault: Callable[[Results], None], where: str, what: str, code: int
) -> None:
    results = healthy()
    fault(results)
    (finding,) = find(results)
    assert finding.where == where
    assert what in finding.what
    assert exit_code([finding]) == code
    assert finding.line().startswith("problem: " if code else "warning: ")


def test_nothing_is_wrong_with_healthy_nodes() -> None:
    results = healthy()
    assert find(results) == []
    assert exit_code([]) == 0
    lines = lines_of(results)
    assert [line.split()[0] for line in lines[:4]] == ["node", "n1", "n2", "n3"]
    assert result_line([], 3) == "result: healthy, 3 nodes"


def test_an_examination_that_ends_early_reports_what_it_has() -> None:
    results = healthy()
    finding = timed_out("store", 60, results.nodes, [2, 3])
    early = Results(nodes=results.nodes, facts=results.facts, failed=[finding])
    assert find(early) == [finding]
    assert finding.where == "n2"
    assert "ranks 2, 3 did not answer within 60 s at stage store" in finding.what
    assert len(lines_of(early)) >= 4


def test_a_run_folder_that_no_node_can_write_needs_its_user() -> None:
    results = healthy()
    of("folders", None, FolderReading(True, "/x: Permission denied"))(results)
    (finding,) = find(results)
    assert finding.where == "all nodes"
    assert exit_code([finding]) == 2


def test_a_package_that_no_node_has_needs_its_user() -> None:
    results = healthy()
    results.facts = [replace(FACTS, versions=VERSIONS | {"deepspeed": "missing"})] * 3
    (finding,) = find(results)
    assert (finding.where, finding.what) == ("all nodes", "deepspeed is not installed")
    assert exit_code([finding]) == 2


def test_little_shared_memory_only_warns_where_nothing_uses_it() -> None:
    results = healthy()
    results.facts = [replace(FACTS, kind="cpu", shared_memory=None)] * 3
    findings = find(results)
    assert len(findings) == 3
    assert exit_code(findings) == 0
    assert result_line(findings, 3) == "result: healthy, 3 nodes, 3 warnings"


@pytest.mark.parametrize("ranks_of", [{0: "n1", 1: "n1", 2: "n2"}, {0: "n1", 2: "n1", 1: "n2"}])
def test_ranks_that_never_connected_belong_to_the_node_that_has_too_few(ranks_of: dict[int, str]) -> None:
    # Whichever way the ranks are assigned to the nodes.
    finding = never_connected(60, 4, ranks_of, {"n1": 2, "n2": 2})
    assert finding.where == "n2"
    assert "rank 3 of 4 did not connect within 60 s" in finding.what
