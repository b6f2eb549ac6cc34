"""The model as named parts, each with the way in which it is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from electra_scale.recipe.optimizer import AdamWSettings, PartSettings
from electra_scale.tasks.module import PretrainModule

_GENERATORS = ("embeddings", "generator", "generator_head")
"""What the generator's distribution depends on."""


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
    """What the module's phase trains.

    Parts that are frozen, or that the phase does not train, are left out, because DeepSpeed decays whatever it is
    given; those that are frozen get no gradient either. A ``generator_rate`` of 0 freezes the generator in the joint
    phase, with its head and the embeddings, unless one of them has a rate of its own.
    """
    electra, joint = module.electra, module.phase == "joint"
    pace = settings.generator_rate if joint else 1.0
    found: list[tuple[str, nn.Module, PartSettings]] = [("embeddings", electra.embeddings, PartSettings(rate=1.0))]
    if electra.generator is not None and electra.generator_head is not None:
        found.append(("generator", electra.generator, PartSettings(rate=pace)))
        found.append(("generator_head", electra.generator_head, PartSettings(rate=pace)))
    if joint:
        found.append(("discriminator", electra.discriminator, PartSettings(rate=1.0)))
        found.append(("discriminator_head", electra.discriminator_head, PartSettings(rate=1.0)))
        for name, (part, training) in module.learned.items():
            if any(True for _ in part.parameters()):
                found.append((name, part, training))
    left = _GENERATORS if joint and pace == 0 and electra.generator is not None else ()
    parts = []
    for name, part, usual in found:
        own = settings.parts.get(name, PartSettings())
        if own.frozen or (name in left and own.rate is None):
            part.requires_grad_(False)
            continue
        changed = {key: value for key, value in vars(own).items() if value not in (None, False, "phase")}
        parts.append(_part(name, part, replace(usual, **changed), settings))
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
