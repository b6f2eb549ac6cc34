"""The processes that share a piece of work, as that work sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


class Ranks(Protocol):
    """The processes that work together; every one of them calls each method at the same place."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def sum(self, value: Tensor) -> Tensor:
        """The sum of all ranks' values, in place."""
        ...

    def gather(self, value: T) -> list[T]:
        """Every rank's value (anything that can be pickled), in the order of the ranks."""
        ...

    def from_main(self, find: Callable[[], T]) -> T:
        """What the main rank finds, on every rank; a UserError there is raised on every rank."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process without others."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def sum(self, value: Tensor) -> Tensor:
        return value

    def gather(self, value: T) -> list[T]:
        return [value]

    def from_main(self, find: Callable[[], T]) -> T:
        return find()
