"""What a way of sharing embeddings between the two networks is to the rest of the program."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from electra_scale.model.architectures.architecture import Architecture, Network
from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.kinds import method_of
from electra_scale.recipe.model import ModelConfig


class Sharing(Protocol):
    """The embeddings of both networks."""

    module: nn.Module
    """All of its parameters: the part ``embeddings`` of the model."""

    def __init__(self, architecture: Architecture) -> None: ...

    def embed_generator(self, ids: Tensor, layout: Layout) -> Tensor:
        """Input (B,S,E) of the generator for token ids (B,S)."""
        ...

    def embed_discriminator(self, ids: Tensor, layout: Layout) -> Tensor:
        """Input (B,S,E) of the discriminator for token ids (B,S)."""
        ...

    def output_table(self) -> Tensor:
        """(V,E) table that the generator's scores are made with."""
        ...

    def exported(self, network: Network) -> dict[str, Tensor]:
        """What an export of a network holds as its embeddings, by the names of the architecture's embedding layer."""
        ...


def sharing_of(config: ModelConfig, architecture: Architecture) -> Sharing:
    """The embeddings of both networks as the configuration chooses."""
    found: Sharing = method_of("sharing", config.sharing.kind)(architecture)
    return found
