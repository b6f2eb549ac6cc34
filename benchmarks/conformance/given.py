"""Networks that give the scores of a text, and ways to see what a trainer does inside its own step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tests.conformance.trainer import Text


class Given(nn.Module):
    """A network that gives scores whatever it reads, and keeps what it read; the scores are its only parameter."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores.clone())
        self.read = torch.empty(0)


@contextmanager
def noted(owner: Any, name: str, found: list[Any]) -> Iterator[None]:
    """While this lasts, what the function ``name`` of a module or an object returns is appended to ``found`` too."""
    plain: Callable[..., Any] = getattr(owner, name)

    def noting(*arguments: Any, **more: Any) -> Any:
        result = plain(*arguments, **more)
        found.append(result)
        return result

    setattr(owner, name, noting)
    try:
        yield
    finally:
        setattr(owner, name, plain)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generator, which these trainers draw from, at a seed; as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def adds(module: nn.Module, scores: Tensor) -> list[Tensor]:
    """Have a module's output increased by ``scores`` of its shape; the list gets the sums."""
    found: list[Tensor] = []

    def add(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        found.append(output + scores.view_as(output))
        return found[-1]

    module.register_forward_hook(add)
    return found


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    """Of a loss in one tensor; zeros where it does not get there."""
    (found,) = torch.autograd.grad(loss, [of], retain_graph=True, allow_unused=True)
    return torch.zeros_like(of) if found is None else found


def largest(loss: Tensor, of: Sequence[Tensor]) -> float:
    """The largest gradient of a loss in any of several tensors."""
    found = torch.autograd.grad(loss, list(of), retain_graph=True, allow_unused=True)
    return max((0.0 if one is None else float(one.abs().max()) for one in found), default=0.0)


def real(text: Text) -> Tensor:
    """(B,S) bool, True at tokens of the text, as an attention mask has them."""
    return ~text.padding
