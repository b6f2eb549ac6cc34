"""Settings of the optimizer, and of the parts of the model that are trained differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

PARTS = ("embeddings", "generator", "generator_head", "discriminator", "discriminator_head", "sampler")
"""Names of the parts of the model."""

_GENERATORS = ("embeddings", "generator", "generator_head")
"""What the generator's distribution depends on."""


@dataclass
class PartSettings:
    """How one part of the model is trained, where that differs from the rest; what is unset is as for the rest."""

    rate: float | None = None
    """Learning rate as a multiple of the schedule's."""

    schedule: Literal["phase", "constant"] = "phase"
    """``phase``: the rate follows the phase's schedule; ``constant``: it stays at the phase's peak."""

    betas: tuple[float, float] | None = None
    """Decay rates of the first and second moment."""

    weight_decay: float | None = None
    """Decay of weights."""

    clip: float | None = None
    """Largest norm of this part's own gradient; such a part is replicated."""

    replicated: bool = False
    """Every rank keeps the whole state of this part, and not a share: for small parts with a clip of their own."""

    frozen: bool = False
    """Leave this part as it is."""

    def problems(self, name: str) -> list[str]:
        """Settings that make no sense, one sentence each."""
        key = f"optimizer.parts.{name}"
        found = []
        if name not in PARTS:
            found.append(f"{key}: there is no such part; the parts are {', '.join(PARTS)}")
        if self.rate is not None and not self.rate > 0:
            found.append(f"{key}.rate is {self.rate}; it must be above 0 (frozen: true leaves a part as it is)")
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            found.append(f"{key}.betas are {self.betas}; each must be at least 0 and below 1")
        if self.weight_decay is not None and not self.weight_decay >= 0:
            found.append(f"{key}.weight_decay is {self.weight_decay}; it must be 0 or more")
        if self.clip is not None and not self.clip >= 0:
            found.append(f"{key}.clip is {self.clip}; it must be 0 or more")
        if self.clip is not None and not self.replicated and name != "sampler":
            found.append(
                f"{key}.clip is set, but gradients of a part that ranks share have one norm for all; add "
                f"{key}.replicated: true, or set optimizer.clip"
            )
        return found


@dataclass
class AdamWSettings:
    """AdamW, as the DeepSpeed JSON implements it."""

    kind: Literal["adamw"] = "adamw"
    """Which optimizer this is."""

    learning_rate: float = 5e-4
    """Peak rate."""

    generator_rate: float = 1.0
    """Rate of the generator's layers and head in the joint phase, as a multiple; the embeddings have the full rate. 0
    leaves all three as the generator's warm-up, or model.init_from, made them, and saves its backward pass."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment."""

    eps: float = 1e-6
    """Added to the root of the second moment."""

    weight_decay: float = 0.01
    """Decay of weights; LayerNorm and biases have none."""

    clip: float = 1.0
    """Largest norm of the global gradient."""

    most_skipped: int = 20
    """Steps in a row that may be skipped, since a loss or a gradient is not finite, before the run ends."""

    parts: dict[str, PartSettings] = field(default_factory=dict)
    """Parts of the model that are trained differently, by name: embeddings, generator, generator_head, discriminator,
    discriminator_head, sampler. An example: {generator: {frozen: true}}."""

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        found = []
        if not self.learning_rate > 0:
            found.append(f"optimizer.learning_rate is {self.learning_rate}; it must be above 0")
        if not self.generator_rate >= 0:
            found.append(f"optimizer.generator_rate is {self.generator_rate}; it must be 0 or more")
        if not all(0 <= beta < 1 for beta in self.betas):
            found.append(f"optimizer.betas are {self.betas}; each must be at least 0 and below 1")
        if not self.eps > 0:
            found.append(f"optimizer.eps is {self.eps}; it must be above 0")
        if not (self.weight_decay >= 0 and self.clip >= 0):
            found.append("optimizer.weight_decay and optimizer.clip must be 0 or more")
        if self.most_skipped < 0:
            found.append(f"optimizer.most_skipped is {self.most_skipped}; it must be at least 0")
        for name, part in self.parts.items():
            found += part.problems(name)
        return found


def training_of_parts(
    settings: AdamWSettings, joint: bool, with_generator: bool, learned: Mapping[str, PartSettings]
) -> dict[str, PartSettings]:
    """How each part that runs in a phase is trained there, by name; ``frozen`` for those that are left as they are.

    A ``generator_rate`` of 0 freezes the generator in the joint phase, with its head and the embeddings, unless one of
    them has a rate of its own.

    Args:
        settings: the recipe's.
        joint: the phase trains the discriminator too.
        with_generator: there is a generator.
        learned: what the corruption and the task learn besides the networks in the joint phase, and how.
    """
    pace = settings.generator_rate if joint else 1.0
    usual = {"embeddings": PartSettings(rate=1.0)}
    if with_generator:
        usual |= {name: PartSettings(rate=pace) for name in _GENERATORS[1:]}
    if joint:
        usual |= {name: PartSettings(rate=1.0) for name in ("discriminator", "discriminator_head")}
        usual |= learned
    left = _GENERATORS if joint and pace == 0 and with_generator else ()
    found = {}
    for name, part in usual.items():
        own = settings.parts.get(name, PartSettings())
        changed = {key: value for key, value in vars(own).items() if value not in (None, False, "phase")}
        found[name] = replace(part, **changed)
        found[name].frozen |= name in left and own.rate is None
    return found
