"""What SLURM tells a process about its job: the one module that reads SLURM's variables."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping, MutableMapping
from itertools import product

from data_pipeline.errors import UserError

_LAUNCHED = ("RANK", "OMPI_COMM_WORLD_RANK")
_PORTS = (15_000, 16_000)
"""First master port and how many: below the ports that systems give out themselves."""


def adopt_ranks(environment: MutableMapping[str, str]) -> bool:
    """Give the tasks of an ``srun`` the variables that torch.distributed reads; whether there was such a step.

    Nothing is done where a launcher has set them, or for a step of one task. ``MASTER_ADDR`` and ``MASTER_PORT`` that
    are set stay. Otherwise the address is the first node's, the port follows from job and step.

    Raises:
        UserError: the first node has no address.
    """
    size = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if size < 2 or any(name in environment for name in _LAUNCHED):
        return False
    rank, local = environment["SLURM_PROCID"], environment["SLURM_LOCALID"]
    tasks = tasks_of_nodes(environment["SLURM_STEP_TASKS_PER_NODE"])
    here = tasks[int(environment["SLURM_NODEID"])]
    # Where SLURM gives each task one device of its own, that is its first.
    alone = here > 1 and re.fullmatch(r"[^,]+", environment.get("CUDA_VISIBLE_DEVICES", "")) is not None
    if "MASTER_ADDR" not in environment:
        environment["MASTER_ADDR"] = _address(nodes_of(environment["SLURM_STEP_NODELIST"])[0])
    if "MASTER_PORT" not in environment:
        environment["MASTER_PORT"] = str(_port(int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])))
    environment["RANK"], environment["WORLD_SIZE"] = rank, str(size)
    environment["LOCAL_RANK"], environment["LOCAL_WORLD_SIZE"] = "0" if alone else local, str(here)
    return True


def node_of_task(environment: Mapping[str, str]) -> str | None:
    """SLURM's name of the node that a task runs on; nothing outside a job."""
    return environment.get("SLURMD_NODENAME")


def tasks_of_step(environment: Mapping[str, str]) -> dict[str, int]:
    """How many tasks each node of an ``srun`` has, in the order of the nodes."""
    names, tasks = (
        nodes_of(environment["SLURM_STEP_NODELIST"]),
        tasks_of_nodes(environment["SLURM_STEP_TASKS_PER_NODE"]),
    )
    return dict(zip(names, tasks, strict=True))


def nodes_of(nodelist: str) -> list[str]:
    """The names that SLURM's short form stands for: ``n[1-3,07],gpu2`` is n1, n2, n3, n07 and gpu2."""
    names = []
    for group in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodelist):
        # Text outside brackets and lists of numbers inside them come in turns.
        parts = re.split(r"\[([^\]]*)\]", group)
        choices = [_numbers(part) if place % 2 else [part] for place, part in enumerate(parts)]
        names += ["".join(choice) for choice in product(*choices)]
    return names


def _numbers(ranges: str) -> list[str]:
    found = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        found += [str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)]
    return found


def tasks_of_nodes(counts: str) -> list[int]:
    """Tasks on each node from SLURM's short form: ``2(x3),1`` is 2, 2, 2 and 1."""
    found: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
        found += [int(count)] * int(times or 1)
    return found


def _port(job: int, step: int) -> int:
    # Two steps of a job, and two jobs on a node, listen on ports of their own.
    first, number = _PORTS
    return first + (job * 8 + step % 8) % number


def _address(node: str) -> str:
    """The node's name if it resolves, else the address that SLURM reaches it by."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        pass
    try:
        shown = subprocess.run(["scontrol", "show", "node", "-o", node], capture_output=True, text=True, check=False)
        found = re.search(r"\bNodeAddr=(\S+)", shown.stdout)
    except FileNotFoundError:
        found = None
    if found is None:
        raise UserError(f"the job's first node {node} has no address here; set MASTER_ADDR in slurm/site.env")
    return found.group(1)
