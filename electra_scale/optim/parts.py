"""The model as named parts, each with the way in which it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from electra_scale.recipe.optimizer import AdamWSettings, PartSettings, training_of_parts
from electra_scale.tasks.module import PretrainModule


@dataclass
class Part:
    """A part of the model.

    Attributes:
        name: what recipes call it.
        module: its parameters. LayerNorm and biases are not decayed.
        rate: multiple of the schedule's learning rate.
        constant: the rate stays at the phase's peak.
        betas, eps, weight_decay: of the update.
        clip: largest norm of its own gradient, for a replicated part; 0 leaves it as it is.
        replicated: every rank keeps its whole state.
    """

    name: str
    module: nn.Module
    rate: float
    constant: bool
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip: float
    replicated: bool

    def at(self, scheduled: float, peak: float) -> float:
        """The learning rate, given the schedule's of the step and its peak in the phase."""
        return (peak if self.constant else scheduled) * self.rate


def parts_of(module: PretrainModule, settings: AdamWSettings) -> list[Part]:
    """What the module's phase trains, by :func:`electra_scale.recipe.optimizer.training_of_parts`.

    Parts that are frozen, or that the phase does not train, are left out, because DeepSpeed decays whatever it is
    given; those that are frozen get no gradient either.
    """
    electra = module.electra
    learned = {name: part for name, part in module.learned.items() if any(True for _ in part[0].parameters())}
    training = training_of_parts(
        settings,
        module.phase == "joint",
        electra.generator is not None,
        {name: training for name, (_, training) in learned.items()},
    )
    parts = []
    for name, own in training.items():
        part: nn.Module = learned[name][0] if name in learned else getattr(electra, name)
        if own.frozen:
            part.requires_grad_(False)
        else:
            parts.append(_part(name, part, own, settings))
    return parts


def _part(name: str, module: nn.Module, own: PartSettings, settings: AdamWSettings) -> Part:
    return Part(
        name,
        module,
        rate=1.0 if own.rate is None else own.rate,
        constant=own.schedule == "constant",
        betas=settings.betas if own.betas is None else own.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay if own.weight_decay is None else own.weight_decay,
        clip=settings.clip if own.clip is None else own.clip,
        replicated=own.replicated,
    )
