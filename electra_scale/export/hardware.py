"""The machines that a run was trained on, from ``hardware.json``: an entry for each start on others than before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_pipeline.progress import counted


@dataclass(frozen=True)
class Hardware:
    """What a run was trained on from a step on: the name of the device of each rank, ranks, and hosts."""

    step: int
    device: str
    ranks: int
    hosts: int

    @property
    def where(self) -> str:
        """Ranks and hosts, for people."""
        return f"{counted(self.ranks, 'rank')} on {counted(self.hosts, 'host')}"


def hardware_in(content: Mapping[str, Any]) -> list[Hardware]:
    """The entries of the record, in the order of the starts; for ``read_record``."""
    return [
        Hardware(int(start["step"]), str(start["device"]), int(start["ranks"]), int(start["hosts"]))
        for start in content["starts"]
    ]
