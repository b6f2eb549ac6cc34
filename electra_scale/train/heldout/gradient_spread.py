"""Variance over rows of the gradient of each row's loss, by chosen parameters of the discriminator: no draw is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from data_pipeline.errors import UserError
from electra_scale.model.electra import Electra
from electra_scale.model.embeddings import Embeddings


@dataclass
class Call:
    """Input and output of a module's one call."""

    given: Tensor
    output: Tensor


@dataclass
class RowGradient:
    """Gradients (C, ...) of C rows' losses by one parameter; with ``index``, by these of its ``size`` rows only."""

    values: Tensor
    index: Tensor | None = None
    size: int = 0

    def sum(self) -> Tensor:
        """Over the rows' losses, in float64, of the whole parameter."""
        total = self.values.sum(0, dtype=torch.float64)
        if self.index is None:
            return total
        return total.new_zeros(self.size, total.shape[-1]).index_copy_(0, self.index, total)


Rule = Callable[[nn.Module, Tensor, Tensor], list[RowGradient]]


@dataclass(frozen=True)
class Part:
    """Parameters whose gradients follow from a module's input and from the slope at its output."""

    module: nn.Module
    rule: Rule


def _linear(module: nn.Module, given: Tensor, slope: Tensor) -> list[RowGradient]:
    return [RowGradient(slope.transpose(1, 2) @ given.float()), *_bias(module, slope)]


def _layer_norm(module: nn.Module, given: Tensor, slope: Tensor) -> list[RowGradient]:
    assert isinstance(module, nn.LayerNorm)
    normal = layer_norm(given.float(), module.normalized_shape, eps=module.eps)
    return [RowGradient((slope * normal).sum(1)), *_bias(module, slope)]


def _bias(module: nn.Module, slope: Tensor) -> list[RowGradient]:
    return [] if module.bias is None else [RowGradient(slope.sum(1))]


def _embedding(module: nn.Module, given: Tensor, slope: Tensor) -> list[RowGradient]:
    assert isinstance(module, nn.Embedding)
    index, place = given.unique(return_inverse=True)
    values = slope.new_zeros(len(slope), len(index), slope.shape[-1])
    values.scatter_add_(1, place[:, :, None].expand_as(slope), slope)
    return [RowGradient(values, index, module.num_embeddings)]


def _token_type(_: nn.Module, given: Tensor, slope: Tensor) -> list[RowGradient]:
    # Only type 0 is read, at every position, and its sum with the word's embedding has the word's slope.
    return [RowGradient(slope.sum(1))]


_RULES: dict[type[nn.Module], Rule] = {nn.Linear: _linear, nn.LayerNorm: _layer_norm, nn.Embedding: _embedding}


def _rule_of(module: nn.Module) -> Rule | None:
    return next((rule for kind, rule in _RULES.items() if isinstance(module, kind)), None)


def parts_of(module: nn.Module) -> list[Part]:
    """All of a module's own parameters; raises UserError for parameters whose gradients are not known here."""
    parts = []
    for one in module.modules():
        if isinstance(one, Embeddings):
            parts.append(Part(one.word, _token_type))
        if next(one.parameters(recurse=False), None) is None or _is_token_type(one, module):
            continue
        rule = _rule_of(one)
        if rule is None:
            raise UserError(
                f"the probe does not know the gradient of a {type(one).__name__} row by row; it knows those of "
                f"{', '.join(kind.__name__ for kind in _RULES)}"
            )
        parts.append(Part(one, rule))
    return parts


def _is_token_type(one: nn.Module, module: nn.Module) -> bool:
    return any(isinstance(parent, Embeddings) and parent.token_type is one for parent in module.modules())


def discriminator_parts(electra: Electra) -> dict[str, list[Part]]:
    """The discriminator's parameters by where they are: the embeddings that it reads, its layers, its head."""
    layers = electra.discriminator.layers
    assert isinstance(layers, nn.ModuleList)
    last = parts_of(layers[-1])
    modules = {part.module for part in last}
    return {
        "head": parts_of(electra.discriminator_head),
        "last layer": last,
        "other layers": [part for part in parts_of(electra.discriminator) if part.module not in modules],
        "embeddings": parts_of(electra.embeddings),
    }


@contextmanager
def recorded(parts: Iterable[Part]) -> Iterator[dict[nn.Module, Call]]:
    """Input and output of the one call of each part's module inside the block."""
    calls: dict[nn.Module, Call] = {}

    def record(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        calls[module] = Call(given[0].detach(), output)

    handles = [module.register_forward_hook(record) for module in dict.fromkeys(part.module for part in parts)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def graph_from(module: nn.Module) -> Iterator[None]:
    """Inside, a graph is recorded from the call of ``module`` on, so that nothing before it keeps its activations."""
    handle = module.register_forward_pre_hook(lambda _module, _given: _record())
    try:
        with torch.no_grad():
            yield
    finally:
        handle.remove()


def _record() -> None:
    torch.set_grad_enabled(True)


def slopes_of(calls: Mapping[nn.Module, Call], losses: Sequence[Tensor]) -> list[dict[nn.Module, Tensor]]:
    """The gradients of each loss () by the modules' outputs; no parameter's gradient is formed or touched."""
    outputs = [call.output for call in calls.values()]
    found = []
    for number, loss in enumerate(losses):
        kept = number + 1 < len(losses)
        found.append(dict(zip(calls, torch.autograd.grad(loss, outputs, retain_graph=kept), strict=True)))
    return found


class GradientSpread:
    """Trace of the covariance, over rows, of the gradients of one or two losses of each row and of their sum.

    For g of K rows it is (sum of |g|^2 - |sum of g|^2 / K) / (K - 1): one sum of gradients is kept in float64, and of
    each row the squared norm only.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self._rows = 0
        self._squares: Tensor | float = 0.0
        self._sums: list[Tensor] | None = None

    def add(self, calls: Mapping[nn.Module, Call], slopes: Sequence[Mapping[nn.Module, Tensor]]) -> None:
        """Rows of which ``slopes``, a mapping for each loss, are the gradients (C, S, ...) by the modules' outputs."""
        sums: list[Tensor] = []
        self._rows += len(calls[self.parts[0].module].output)
        for part in self.parts:
            call = calls[part.module]
            by_loss = [part.rule(part.module, call.given, slope[part.module].float()) for slope in slopes]
            for gradients in zip(*by_loss, strict=True):
                values = [gradient.values for gradient in gradients]
                self._squares = self._squares + _squares([value.flatten() for value in values])
                sums.append(torch.stack([gradient.sum() for gradient in gradients]))
        if self._sums is None:
            self._sums = sums
        else:
            for total, one in zip(self._sums, sums, strict=True):
                total += one

    def variance(self) -> Tensor:
        """One number for each loss, and where there are two a third for their sum, float64."""
        assert self._sums is not None
        of_mean = sum(_squares(list(total.flatten(1))) for total in self._sums) / self._rows
        # Rounding may leave less than nothing where all rows are the same.
        return torch.clamp(torch.as_tensor(self._squares - of_mean), min=0.0) / (self._rows - 1)


def _squares(values: Sequence[Tensor]) -> Tensor:
    """Squared norms of one vector, or of two and of their sum, in float64."""
    found = [one.square().sum(dtype=torch.float64) for one in values]
    if len(values) == 2:
        found.append(found[0] + found[1] + 2 * (values[0] * values[1]).sum(dtype=torch.float64))
    return torch.stack(found)
