"""How far the nodes' clocks are from the first one's."""

from __future__ import annotations

import time

from electra_scale.doctor.meeting import Meeting

_TURNS = 8


def answer_clock(meeting: Meeting, node: int, seconds: float) -> None:
    """On the first rank: tell a node the time as often as it asks; raises RuntimeError if it does not."""
    for turn in range(_TURNS):
        meeting.ask(f"time/{node}/{turn}", seconds)
        meeting.told(f"time/{node}/{turn}/answer", time.time(), seconds)


def ask_clock(meeting: Meeting, node: int, seconds: float) -> float:
    """On a node's first rank: seconds by which its clock is ahead of the first node's.

    The answer was given about half of the way between question and answer; the quickest of a few is least wrong.
    """
    best, offset = float("inf"), 0.0
    for turn in range(_TURNS):
        asked = time.time()
        meeting.post(f"time/{node}/{turn}", seconds)
        answer = float(meeting.told(f"time/{node}/{turn}/answer", None, seconds))
        back = time.time()
        if back - asked < best:
            best, offset = back - asked, (asked + back) / 2 - answer
    return offset
