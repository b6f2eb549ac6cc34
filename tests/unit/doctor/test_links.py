"""Which pairs of nodes are measured, and which of them at the same time."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from electra_scale.doctor.links import MOST_NODES, pair_schedule, ring, tournament


@given(st.integers(2, 40))
def test_every_pair_is_measured_once_and_no_node_twice_in_a_round(nodes: int) -> None:
    rounds = tournament(nodes)
    assert sorted(pair for pairs in rounds for pair in pairs) == list(combinations(range(nodes), 2))
    # No schedule needs fewer rounds.
    assert len(rounds) == nodes - 1 + nodes % 2
    assert_disjoint(rounds)


@given(st.integers(3, 300))
def test_a_ring_pairs_each_node_with_both_its_neighbours(nodes: int) -> None:
    rounds = ring(nodes)
    links = {frozenset((node, (node + 1) % nodes)) for node in range(nodes)}
    assert sum(map(len, rounds)) == nodes
    assert {frozenset(pair) for pairs in rounds for pair in pairs} == links
    assert len(rounds) == 2 + nodes % 2
    assert_disjoint(rounds)


def test_many_nodes_are_measured_as_a_ring() -> None:
    assert pair_schedule(MOST_NODES) == tournament(MOST_NODES)
    assert pair_schedule(MOST_NODES + 1) == ring(MOST_NODES + 1)


def assert_disjoint(rounds: list[list[tuple[int, int]]]) -> None:
    for pairs in rounds:
        busy = [node for pair in pairs for node in pair]
        assert len(busy) == len(set(busy))
