"""The ranks of a fine-tuning, one process without a launcher: the first one reads and writes, all of them train."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from data_pipeline.errors import OtherRankError, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among ``size`` that a launcher (torchrun, deepspeed) started."""

    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def from_main(self, find: Callable[[], T]) -> T:
        """What the first rank finds, on every rank; an error of a user's there ends all of them."""
        if self.size == 1:
            return find()
        found: list[object] = [None, None]
        if self.is_main:
            try:
                found = [find(), None]
            except UserError as error:
                found = [None, error]
        distributed.broadcast_object_list(found)
        if isinstance(found[1], UserError):
            raise found[1] if self.is_main else OtherRankError(str(found[1]))
        return found[0]  # type: ignore[return-value]

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def joined() -> Iterator[Processes]:
    """The ranks that the launcher's variables tell of, connected for the block: by gloo without CUDA, else by NCCL."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes(0, 1)
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    started = not distributed.is_initialized()
    if started:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(distributed.get_rank(), size)
    finally:
        if started:
            distributed.destroy_process_group()


def reports_errors(error: UserError) -> bool:
    """Whether this rank prints an error: the first one of a machine, since all meet the same."""
    return os.environ.get("LOCAL_RANK", "0") == "0" and not isinstance(error, OtherRankError)
