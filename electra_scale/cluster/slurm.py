"""The nodes, tasks and ranks of a SLURM job: the one module that reads SLURM's environment variables."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping, MutableMapping
from itertools import product

from data_pipeline.errors import UserError

_LAUNCHED = ("RANK", "OMPI_COMM_WORLD_RANK")
_OF_A_TASK = (
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_NODEID",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)
_PORTS = (15_000, 16_000)
"""The first master port and the number of ports: all lie below those that operating systems assign themselves."""


def adopt_ranks(environment: MutableMapping[str, str]) -> bool:
    """Set the variables that torch.distributed reads, in a task of ``srun``; returns whether it is such a task.

    Nothing is done if a launcher has set them, or for a step of one task. ``MASTER_ADDR`` and ``MASTER_PORT`` are kept
    if they are set. Otherwise the address is that of the first node, and the port follows from job and step.

    Raises:
        UserError: the first node has no address, or variables of the task are missing.
    """
    size = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if size < 2 or any(name in environment for name in _LAUNCHED):
        return False
    missing = [name for name in _OF_A_TASK if name not in environment]
    if missing:
        raise UserError(
            f"SLURM_STEP_NUM_TASKS is {size} in the environment, but {', '.join(missing)} is not set: pass all of "
            "SLURM's variables on, or unset SLURM_STEP_NUM_TASKS to train in this process alone"
        )
    rank, local = environment["SLURM_PROCID"], environment["SLURM_LOCALID"]
    tasks = tasks_of_nodes(environment["SLURM_STEP_TASKS_PER_NODE"])
    here = tasks[int(environment["SLURM_NODEID"])]
    # If SLURM gives each task one device of its own, that device is number 0 for the task.
    alone = here > 1 and re.fullmatch(r"[^,]+", environment.get("CUDA_VISIBLE_DEVICES", "")) is not None
    if "MASTER_ADDR" not in environment:
        environment["MASTER_ADDR"] = _address(nodes_of(environment["SLURM_STEP_NODELIST"])[0])
    if "MASTER_PORT" not in environment:
        environment["MASTER_PORT"] = str(_port(int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])))
    environment["RANK"], environment["WORLD_SIZE"] = rank, str(size)
    environment["LOCAL_RANK"], environment["LOCAL_WORLD_SIZE"] = "0" if alone else local, str(here)
    return True


def node_of_task(environment: Mapping[str, str]) -> str | None:
    """SLURM's name of the node that a task runs on; None outside a job."""
    return environment.get("SLURMD_NODENAME")


def start_of_job(environment: Mapping[str, str]) -> tuple[str, int] | None:
    """The job with its cluster, and how often SLURM has started it again; None outside a job."""
    if "SLURM_JOB_ID" not in environment:
        return None
    name = f"{environment['SLURM_JOB_ID']}@{environment.get('SLURM_CLUSTER_NAME', '')}".rstrip("@")
    return name, int(environment.get("SLURM_RESTART_COUNT", "0"))


def tasks_of_step(environment: Mapping[str, str]) -> dict[str, int]:
    """The number of tasks on each node of an ``srun``, in the order of the nodes."""
    names = nodes_of(environment["SLURM_STEP_NODELIST"])
    return dict(zip(names, tasks_of_nodes(environment["SLURM_STEP_TASKS_PER_NODE"]), strict=True))


def tasks_of_job(environment: Mapping[str, str]) -> dict[str, int] | None:
    """The number of tasks on each node of a job, 1 where SLURM gives none; None outside a job."""
    if "SLURM_JOB_NODELIST" not in environment:
        return None
    names = nodes_of(environment["SLURM_JOB_NODELIST"])
    tasks = tasks_of_nodes(environment.get("SLURM_TASKS_PER_NODE", f"1(x{len(names)})"))
    return dict(zip(names, tasks, strict=True))


def nodes_of(nodelist: str) -> list[str]:
    """The names that SLURM's short form stands for: ``n[1-3,07],gpu2`` is n1, n2, n3, n07 and gpu2."""
    names = []
    for group in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodelist):
        # Text outside brackets alternates with lists of numbers inside them.
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
    # Different steps of a job, and different jobs on a node, get different ports.
    first, number = _PORTS
    return first + (job * 8 + step % 8) % number


def _address(node: str) -> str:
    """The node's name if it resolves to an address, else the address by which SLURM reaches it."""
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
        raise UserError(
            f"the name of the job's first node, {node}, cannot be resolved; set MASTER_ADDR in slurm/site.env"
        )
    return found.group(1)
