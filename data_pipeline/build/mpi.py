"""A build under mpirun or srun: rank 0 leads, the others run its tasks. The only module that imports mpi4py."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.extras import install

# How launchers tell a process the size of its world and its place in it. SLURM_NTASKS won't do: a batch script
# has it too, where nothing was launched.
_VARIABLES = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


@dataclass(frozen=True)
class Launch:
    """What an MPI launcher started: ``size`` processes, of which this is number ``rank``."""

    size: int
    rank: int


def launched(environment: Mapping[str, str]) -> Launch | None:
    """How a launcher started this process among others, None if it runs alone; mpi4py is not imported."""
    for size, rank in _VARIABLES:
        count = environment.get(size, "")
        if count.isdigit() and int(count) > 1:
            place = environment.get(rank, "")
            return Launch(int(count), int(place) if place.isdigit() else 0)
    return None


def lead(launch: Launch, command: Callable[[Executor], int]) -> int:
    """Run ``command`` on rank 0 with an executor over the other ranks; every rank gets its exit code.

    Ranks other than 0 run tasks until rank 0 is done.

    Raises:
        UserError: on rank 0: mpi4py or an MPI library is missing, or MPI does not see the launcher's processes.
            The other ranks get the exit code 2.
    """
    # Tasks are the parallelism; threads of each rank's tokenizer would compete for the same cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor
    except (ImportError, RuntimeError) as error:  # the latter: mpi4py is here, an MPI library is not
        if launch.rank:
            return 2
        raise UserError(
            f"{launch.size} processes were launched but mpi4py or its MPI library is missing: "
            f"{install('mpi')} mpich, or start a single process"
        ) from error
    world = MPI.COMM_WORLD
    if world.Get_size() != launch.size:
        if launch.rank:
            return 2
        raise UserError(
            f"the launcher started {launch.size} processes but MPI sees {world.Get_size()}: use the launcher of the "
            "MPI library that mpi4py loads (for srun, try --mpi=pmi2 or --mpi=pmix)"
        )
    code = 1
    try:
        executor: Any
        with MPICommExecutor(world, root=0) as executor:
            if executor is not None:
                code = command(executor)
    finally:
        # The leader may have failed in any way; the others must not wait for it.
        code = world.bcast(code, root=0)
    return code
