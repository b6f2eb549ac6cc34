"""The steps that ``--profile FROM:TO`` asks a trace of."""

from __future__ import annotations

import re
from dataclasses import dataclass

from data_pipeline.errors import UserError

MOST = 100
"""Steps of a trace: one of more is hundreds of megabytes, which no viewer opens."""


@dataclass(frozen=True)
class ProfiledSteps:
    """Steps ``first`` to ``last``, both included, counted from 1 over the run as the log counts them."""

    first: int
    last: int

    @classmethod
    def of(cls, text: str, total: int) -> ProfiledSteps:
        """What the option says, for a run of ``total`` steps; raises UserError for what is no such range."""
        found = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", text)
        if not found:
            raise UserError(f"--profile is {text!r}; it must be FROM:TO, two steps such as 10:12")
        first, last = int(found[1]), int(found[2])
        if not 1 <= first <= last:
            raise UserError(f"--profile is {text}; steps are counted from 1, and FROM must not be after TO")
        if last > total:
            raise UserError(f"--profile is {text}, and the run has {total} steps; choose steps up to {total}")
        if last - first >= MOST:
            raise UserError(f"--profile is {text}, {last - first + 1} steps; a trace can hold {MOST} at most")
        return cls(first, last)
