"""Which nodes exchange data with each other at the same time."""

from __future__ import annotations

MOST_NODES = 16
"""Every pair is measured up to so many nodes; with more, each node and its neighbours, since pairs grow with the
square and each first meeting of two GPUs takes a moment."""


def schedule(nodes: int) -> list[list[tuple[int, int]]]:
    """Rounds of pairs: no node is in two pairs of a round, and no pair comes twice.

    Every pair comes up to :data:`MOST_NODES` nodes; beyond that the pairs are those of a ring.
    """
    return ring(nodes) if nodes > MOST_NODES else tournament(nodes)


def tournament(nodes: int) -> list[list[tuple[int, int]]]:
    """Everybody against everybody (the circle method): one stays, the others move on by one place a round."""
    places: list[int | None] = [*range(nodes)]
    if nodes % 2:
        places.append(None)
    rounds = []
    for _ in range(len(places) - 1):
        half = len(places) // 2
        pairs = zip(places[:half], reversed(places[half:]), strict=True)
        rounds.append([(min(a, b), max(a, b)) for a, b in pairs if a is not None and b is not None])
        places = [places[0], places[-1], *places[1:-1]]
    return [pairs for pairs in rounds if pairs]


def ring(nodes: int) -> list[list[tuple[int, int]]]:
    """Each node and the next, three nodes at least; an odd ring needs a third round for its last link."""
    links = [(node, node + 1) for node in range(nodes - 1)]
    rounds = [links[::2], links[1::2]]
    closing = (0, nodes - 1)
    if nodes % 2:
        rounds.append([closing])
    else:
        rounds[1].append(closing)
    return rounds
