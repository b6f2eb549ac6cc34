"""When and how each attempt of a tortured run ends: drawn from a seed, so that a failure can be had again."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Literal, get_args

RANKS = 2
"""Of every attempt that trains; bit-equal weights hold for one number only."""

Moment = Literal[
    "steps",
    "terminal",
    "save",
    "evaluation",
    "start",
    "conversion",
    "upload",
    "fetch",
    "full disk",
    "second owner",
]
Ending = Literal[
    "SIGKILL to one rank",
    "SIGKILL to all",
    "SIGTERM to one rank",
    "SIGTERM, then SIGKILL",
    "SIGINT to all",
    "broken pipe, then SIGINT",
    "full disk",
]

_KILLED: tuple[Ending, ...] = ("SIGKILL to one rank", "SIGKILL to all")
_ENDINGS: dict[Moment, tuple[Ending, ...]] = {
    "steps": (*_KILLED, "SIGTERM to one rank", "SIGTERM, then SIGKILL", "SIGINT to all"),
    # The reader of its output goes away, and some steps later a Ctrl-C comes.
    "terminal": ("broken pipe, then SIGINT",),
    "save": (*_KILLED, "SIGTERM to one rank", "SIGTERM, then SIGKILL", "SIGINT to all"),
    # Only a run that stops by itself says, in its checkpoint, that an evaluation was under way.
    "evaluation": ("SIGTERM to one rank", "SIGINT to all"),
    "start": _KILLED,
    # A run that is asked to stop converts first and would save on the other number of ranks.
    "conversion": _KILLED,
    "upload": (*_KILLED, "SIGTERM to one rank"),
    "fetch": _KILLED,
    "full disk": ("full disk",),
    # Its end comes when a second start of the same run has been refused.
    "second owner": (*_KILLED, "SIGTERM to one rank"),
}
_OF_25: dict[Moment, int] = {
    "steps": 4,
    "terminal": 2,
    "save": 4,
    "conversion": 4,
    "upload": 3,
    "start": 2,
    "evaluation": 2,
    "full disk": 2,
    "fetch": 1,
    "second owner": 1,
}
ASKED: tuple[Ending, ...] = ("SIGTERM to one rank", "SIGINT to all", "broken pipe, then SIGINT")
"""Those that ask for a stop, which then loses nothing."""


@dataclass(frozen=True)
class Kill:
    """The end of one attempt.

    Args:
        moment: what the run is doing.
        ending: what is done to it.
        ranks: started in this attempt.
        rank: the one that gets a signal meant for one.
        after: rows of the log that this attempt writes before the end, where the moment leaves that open.
        progress: how far into the moment, from 0 to 1.
        delay: seconds more.
        lost: the machine is gone too: only the copy in the bucket is left.
    """

    moment: Moment
    ending: Ending
    ranks: int
    rank: int
    after: int
    progress: float
    delay: float
    lost: bool

    def line(self) -> str:
        text = f"{self.moment}: {self.ending}"
        if self.ending.endswith("one rank") or self.ending == "SIGTERM, then SIGKILL":
            text += f" (rank {self.rank} of {self.ranks})"
        return text + (", run folder lost" if self.lost else "")


@dataclass(frozen=True)
class Amount:
    """How much of it: ``TORTURE_KILLS`` kills, one of each kind if it is not set, drawn from ``TORTURE_SEED``."""

    kills: int
    seed: str

    @staticmethod
    def of_environment() -> Amount:
        return Amount(int(os.environ.get("TORTURE_KILLS") or 0), os.environ.get("TORTURE_SEED") or "1")


def plan(amount: Amount, moments: tuple[Moment, ...]) -> list[Kill]:
    """The kills in order: each moment once, and more of them up to the number that is asked for."""
    drawn = random.Random(f"{amount.seed}/order")
    # The others need a checkpoint, here and in the bucket.
    rest = [moment for moment in moments if moment != "steps"]
    drawn.shuffle(rest)
    more = [moment for moment in moments for _ in range(_OF_25[moment] - 1)]
    drawn.shuffle(more)
    number = max(0, amount.kills - len(moments))
    more = (more * (1 + number // len(more)))[:number]
    order: list[Moment] = ["steps", *rest, *more]
    return [draw(amount.seed, number, moment, order.index(moment) == number) for number, moment in enumerate(order)]


def draw(seed: str, number: int, moment: Moment, first: bool) -> Kill:
    """The end of an attempt; the first one of a moment is a kill that leaves its traces."""
    drawn = random.Random(f"{seed}/{number}")
    possible = _ENDINGS[moment]
    ending = drawn.choice([each for each in possible if each in _KILLED] or possible if first else possible)
    ranks = drawn.choice((1, 4)) if moment == "conversion" else RANKS
    return Kill(
        moment=moment,
        ending=ending,
        ranks=ranks,
        rank=drawn.randrange(ranks),
        after=drawn.randint(9, 12) if number == 0 else drawn.randint(1, 8),
        progress=drawn.random(),
        delay=drawn.random() * 0.005,
        lost=moment == "fetch" or (moment == "upload" and ending not in ASKED and (first or drawn.random() < 0.5)),
    )


MOMENTS: tuple[Moment, ...] = get_args(Moment)
