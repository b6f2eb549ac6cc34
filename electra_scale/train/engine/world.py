"""This process among the others that a launcher started."""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.errors import OneRankError, UserError
from electra_scale.cluster.slurm import adopt_ranks
from electra_scale.monitor.stopwatch import Stopwatch
from electra_scale.train.engine.freed_memory import keep_freed_memory
from electra_scale.train.engine.lean_deepspeed import deepspeed, default_pg_timeout, get_accelerator, mpi_discovery
from electra_scale.train.engine.rendezvous import Rendezvous, launched_rank
from electra_scale.train.engine.timed_collectives import time_collectives

T = TypeVar("T")


class LostMain(RuntimeError):
    """The main rank has failed, and reports the reason itself."""


@dataclass(frozen=True)
class World:
    """This process among the others.

    ``stopwatch`` splits its time; waiting for others is a part of its own. ``host_group`` exchanges what hosts know
    without the devices; None where these are the same.
    """

    rank: int
    size: int
    device: torch.device
    local_size: int = 1
    rendezvous: Rendezvous | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch, compare=False)
    host_group: dist.ProcessGroup | None = None

    @property
    def nodes(self) -> int:
        """Machines, if each has as many ranks as this one."""
        return max(1, self.size // self.local_size)

    @property
    def main(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    def barrier(self) -> None:
        with self.stopwatch.part("exchange"):
            dist.barrier()

    def gather(self, value: T) -> list[T]:
        """Every rank's value (anything that can be pickled), in the order of the ranks."""
        found: list[Any] = [None] * self.size
        with self.stopwatch.part("exchange"):
            dist.all_gather_object(found, value)
        return found

    def from_main(self, find: Callable[[], T]) -> T:
        """What the main rank finds, on every rank.

        Raises:
            UserError: on every rank, if the main one meets it.
            LostMain: on the others, if the main rank meets any other error, which it raises.
        """
        found: list[Any] = [None]
        failure: Exception | None = None
        if self.main:
            try:
                found = [find()]
            except UserError as error:
                found = [error]
            except Exception as error:
                found, failure = [LostMain(f"the main rank has failed with {type(error).__name__}")], error
        with self.stopwatch.part("exchange"):
            dist.broadcast_object_list(found, device=self.device)
        if failure is not None:
            raise failure
        if isinstance(found[0], UserError | LostMain):
            raise found[0]
        result: T = found[0]
        return result

    def sum(self, value: Tensor) -> Tensor:
        """In-place sum over ranks."""
        with self.stopwatch.part("exchange"):
            dist.all_reduce(value)
        return value

    def sum_of(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks of numbers that the host has; no device is waited for."""
        summed = torch.tensor(values, dtype=torch.float64)
        with self.stopwatch.part("exchange"):
            dist.all_reduce(summed, group=self.host_group)
        return summed.tolist()

    def place(self, value: Tensor) -> Tensor:
        """A tensor of the host on the device, which the host does not wait for."""
        if self.device.type != "cuda":
            return value.to(self.device)
        return value.pin_memory().to(self.device, non_blocking=True)

    def maximum(self, value: Tensor) -> Tensor:
        """In-place maximum over ranks."""
        with self.stopwatch.part("exchange"):
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value


def join_world(give_way: Callable[[], None] = lambda: None) -> World:
    """Join the ranks that a launcher started (deepspeed, torchrun, MPI, srun), or be a world of one.

    ``give_way`` is called while this rank waits for the others, and may raise. Raises UserError where the ranks cannot
    meet (rendezvous.py).
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed still calls it by its old name; nothing that a user could do about it.
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.*", category=FutureWarning)
    accelerator = get_accelerator()
    if accelerator.device_name() == "cuda" and not torch.cuda.is_available():
        raise OneRankError(
            "DS_ACCELERATOR is cuda in the environment, but torch sees no CUDA device on this host: unset it to train "
            "on processors, or look at nvidia-smi and whether this torch was built for CUDA"
        )
    adopted = adopt_ranks(os.environ)
    by_mpi = "RANK" not in os.environ and "OMPI_COMM_WORLD_RANK" in os.environ
    if by_mpi:
        mpi_discovery(int(os.environ.get("MASTER_PORT", "29500")), verbose=False)
    elif not adopted and "RANK" not in os.environ:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    rendezvous = Rendezvous(launched_rank(os.environ), default_pg_timeout.total_seconds(), _log_waiting, give_way)
    variables = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "LOCAL_SIZE", "WORLD_SIZE")
    here = max(1, int(next((os.environ[name] for name in variables if name in os.environ), "1")))
    if accelerator.device_name() == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # Without this every rank takes all cores, and they slow each other down.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // here))
    # DeepSpeed compiles this op for a minute or two on first use on a CPU; only its inference all-reduce calls it, and
    # without it that one goes through torch.distributed like everything else. Nobody else asks for this table, and to
    # make it whole DeepSpeed tries its other ops with the compiler, too.
    vars(deepspeed.ops)["__compatible_ops__"] = {"deepspeed_shm_comm": False}
    deepspeed.init_distributed(verbose=False)
    if by_mpi:
        _leave_mpi()
    device = torch.device("cpu")
    if accelerator.device_name() == "cpu":
        keep_freed_memory(os.environ)
    else:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        accelerator.set_device(local_rank)
        device = torch.device(accelerator.device_name(local_rank))
    hosts = dist.new_group(backend="gloo", timeout=default_pg_timeout) if device.type != "cpu" else None
    world = World(dist.get_rank(), dist.get_world_size(), device, here, rendezvous, Stopwatch(device), hosts)
    time_collectives(world.stopwatch)
    return world


def leave_world() -> None:
    """Close the process group, so that no rank waits for one that is gone."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _log_waiting(line: str) -> None:
    print(f"electra-scale: {line}", file=sys.stderr, flush=True)


def _leave_mpi() -> None:
    """End MPI, by which DeepSpeed let the ranks find each other; every rank calls it.

    Left to the end of the process, it would keep a rank that failed waiting for those that wait for it.
    """
    from mpi4py import MPI

    MPI.Finalize()
    # DeepSpeed counts ranks by the names of their hosts, which two hosts may share.
    os.environ["LOCAL_RANK"] = os.environ["OMPI_COMM_WORLD_LOCAL_RANK"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
