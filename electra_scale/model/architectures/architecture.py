"""What an encoder architecture is to the rest of the program: the network, its costs, and its Hugging Face form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from electra_scale.model.layout import Layout
from electra_scale.recipe.kinds import method_of
from electra_scale.recipe.model import EncoderSize, ModelConfig

Network = Literal["discriminator", "generator"]


@dataclass
class Hidden:
    """Hidden states of an encoder: ``last`` (B,S,H), or (M,H) where only M positions were asked for, and ``at`` (B,S,H)
    by the depth asked for, 0 the input."""

    last: Tensor
    at: dict[int, Tensor] = field(default_factory=dict)


class Encoder(Protocol):
    """A stack of layers; an ``nn.Module`` whose ``layers`` are in their order."""

    layers: nn.ModuleList

    def __call__(
        self, embedded: Tensor, layout: Layout, depths: Sequence[int] = (), only: Tensor | None = None
    ) -> Hidden:
        """Encode embedded tokens (B,S,E); ``depths`` are the layers after which states are wanted besides the last.

        ``only`` (M,): where among the B x S positions the last states are wanted, so that the last layer need not
        compute the others; unset, everywhere.
        """
        ...

    def attend_to_neighbours(self) -> None:
        """Set weights such that the first layer's heads attend to neighbouring positions; E = H, and E's last columns
        hold the sines and cosines of :func:`initialisation.sinusoids`, reversed."""
        ...


class Architecture(Protocol):
    """One kind of encoder, for a configuration of the networks."""

    hugging_face: dict[Network, str]
    """Classes of transformers that open an export."""

    tied: dict[Network, dict[str, str]]
    """Weights of transformers that are another one, by the other one's name."""

    def __init__(self, config: ModelConfig) -> None: ...

    def embeddings(self) -> nn.Module:
        """The embedding layer: called with ids and position ids (B,S), gives (B,S,E); ``word`` is its table."""
        ...

    def encoder(self, size: EncoderSize) -> nn.Module:
        """An :class:`Encoder` of a size."""
        ...

    def embedding_parameters(self) -> int:
        """Parameters of the embedding layer."""
        ...

    def encoder_parameters(self, size: EncoderSize) -> int:
        """Parameters of an encoder."""
        ...

    def encoder_flops(self, size: EncoderSize, positions: float, wanted: float = 1.0) -> float:
        """Forward operations of an encoder per token, a multiply-add counted as 2.

        ``positions``: how many positions a token attends to; for packed rows under a mask the row, as it is computed.
        ``wanted``: share of the positions whose last states are asked for.
        """
        ...

    def encoder_bytes(self, size: EncoderSize, element: int, positions: int, wanted: float = 1.0) -> float:
        """Bytes per token that autograd keeps of the embeddings and one encoder, ``element`` bytes a number;
        ``wanted`` as in :meth:`encoder_flops`."""
        ...

    def transformers_config(self, network: Network) -> Any:
        """Configuration of the network as transformers has it."""
        ...

    def transformers_names(self, network: Network) -> dict[str, tuple[str, ...]]:
        """Our parameter names to transformers'; several names are parts of ours, stacked along the first axis."""
        ...

    def differences(self, network: Network, config: Any) -> list[str]:
        """What differs between a configuration of transformers and ours: ``NAME THERE there, HERE here``, each."""
        ...


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture that the configuration chooses."""
    found: Architecture = method_of("architecture", config.architecture.kind)(config)
    return found
