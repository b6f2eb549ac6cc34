"""The global batch, and its division among ranks."""

from __future__ import annotations

from dataclasses import dataclass

from data_pipeline.errors import UserError
from data_pipeline.settings import too_small


@dataclass
class BatchConfig:
    """Batch size; micro-batch and accumulation follow from the number of ranks."""

    global_batch: int = 128
    """Samples of an optimizer step over all ranks."""

    most_per_device: int = 64
    """Largest micro-batch that a device is given; the rest is accumulated."""

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        return too_small("batch", self, global_batch=1, most_per_device=1)


def batch_split(global_batch: int, ranks: int, most_per_device: int) -> tuple[int, int]:
    """Micro-batch and accumulation steps of each rank.

    The largest micro-batch within the limit that divides the rank's share. Raises UserError, naming the nearest batch
    sizes that work, if the ranks can't share the global batch equally.
    """
    share, rest = divmod(global_batch, ranks)
    if rest or share == 0:
        below = max(1, share) * ranks
        above = (share + 1) * ranks
        nearest = str(below) if share == 0 else f"{below} or {above}"
        raise UserError(
            f"batch.global_batch is {global_batch}, which {ranks} ranks cannot share equally; "
            f"nearest that work: {nearest}, or use {_nearest_divisors(global_batch, ranks)} ranks"
        )
    micro = max(size for size in range(1, min(share, most_per_device) + 1) if share % size == 0)
    return micro, share // micro


def _nearest_divisors(number: int, around: int) -> str:
    divisors = [size for size in range(1, number + 1) if number % size == 0]
    below = [size for size in divisors if size < around]
    above = [size for size in divisors if size > around]
    return " or ".join(str(size) for size in below[-1:] + above[:1])
