"""One embedding layer for both networks, whose table the generator's scores are made with (Clark et al. 2020)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from electra_scale.model.architectures.architecture import Architecture, Network
from electra_scale.model.attention.layout import Layout


class TiedEmbeddings:
    """The architecture's embedding layer, read and trained by both networks."""

    def __init__(self, architecture: Architecture) -> None:
        self.module = architecture.embeddings()
        self._word = cast(nn.Embedding, self.module.get_submodule("word"))

    def embed_generator(self, ids: Tensor, layout: Layout) -> Tensor:
        embedded: Tensor = self.module(ids, layout.positions)
        return embedded

    def embed_discriminator(self, ids: Tensor, layout: Layout) -> Tensor:
        return self.embed_generator(ids, layout)

    def output_table(self) -> Tensor:
        return self._word.weight

    def exported(self, network: Network) -> dict[str, Tensor]:
        return self.module.state_dict()
