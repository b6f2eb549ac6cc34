"""Generator and discriminator over the embeddings that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from electra_scale.model.architectures.architecture import Encoder, Hidden, architecture_of
from electra_scale.model.attention.layout import Layout
from electra_scale.model.embeddings import WordEmbeddings
from electra_scale.model.heads import GeneratorHead
from electra_scale.model.initialisation import initialise, sinusoids
from electra_scale.model.sharing.sharing import sharing_of
from electra_scale.recipe.model import ModelConfig


class Electra(nn.Module):
    """The networks of ELECTRA pre-training (Clark et al. 2020, section 3).

    Not shared between the two: the projections from E to H, the encoders, the heads. What is shared, and with what the
    generator's scores are made, is the configuration's ``sharing``.

    Args:
        config: sizes, architecture and sharing.
        seed: seed of the initial weights; the global random state is neither read nor moved.
        with_generator: make a generator; a corruption may do without one.
    """

    generator: nn.Module | None
    generator_head: GeneratorHead | None

    def __init__(self, config: ModelConfig, seed: int = 0, with_generator: bool = True) -> None:
        super().__init__()
        self.config = config
        self.architecture = architecture_of(config)
        # torch's layers fill themselves from the global generator; fork it so that nobody notices.
        with torch.random.fork_rng(devices=[]):
            self.sharing = sharing_of(config, self.architecture)
            self.embeddings = self.sharing.module
            self.generator, self.generator_head = None, None
            if with_generator:
                self.generator = self.architecture.encoder(config.generator)
                self.generator_head = self.architecture.generator_head()
            self.discriminator = self.architecture.encoder(config.discriminator)
            self.discriminator_head = self.architecture.discriminator_head()
        self.initialise(seed)

    def initialise(self, seed: int) -> None:
        """Set all weights again from ``seed``: truncated normal matrices, zero biases, LayerNorm 1 and 0.

        A parameter's values depend on the seed, its name and its shape only. The model must be on the CPU.
        """
        initialise(self, self.config.init_std, seed, self.config.init)
        learned = dict(self.embeddings.named_parameters()).get("position.weight")
        start = self.config.position_init
        if start != "normal" and learned is not None:
            with torch.no_grad():
                table = sinusoids(learned.shape[0], learned.shape[1], self.config.init_std)
                # The last columns of co-occurrence embeddings are the smallest: there words disturb positions least.
                learned.copy_(table.flip(1) if start == "neighbours" else table)
        if start == "neighbours":
            for encoder in (self.generator, self.discriminator):
                if encoder is not None:
                    cast(Encoder, encoder).attend_to_neighbours()
        self.hold_constant()

    def hold_constant(self) -> None:
        """Where heads start by attending to neighbours and words have no positions, give all words a number in common,
        which these heads read; once more wherever the table is set to something else."""
        if self.config.position_init == "neighbours" and isinstance(self.embeddings, WordEmbeddings):
            self.embeddings.hold_constant(self.config.init_std)

    def start_discriminator_from_generator(self) -> None:
        """Give the discriminator's encoder the generator's weights, in place; its head stays as it is.

        Both encoders are of one size, so the names within them are the same whatever the architecture. A projection
        from E to H is part of the encoder.
        """
        assert self.generator is not None
        self.discriminator.load_state_dict(self.generator.state_dict(), strict=True)

    @property
    def word_embeddings(self) -> Tensor:
        """(V,E) table that the generator's scores are made with."""
        return self.sharing.output_table()

    def generator_hidden(self, ids: Tensor, layout: Layout, only: Tensor | None = None) -> Tensor:
        """Hidden states of the generator; its head is applied by the caller, at masked positions.

        Args:
            ids: (B,S) int64 masked token ids.
            layout: positions and segments of the rows.
            only: (M,) where among the B x S positions states are wanted; unset, everywhere.

        Returns:
            (B,S,H) with the generator's H, or (M,H).
        """
        assert self.generator is not None
        encoder = cast(Encoder, self.generator)
        return encoder(self.sharing.embed_generator(ids, layout), layout, only=only).last

    def discriminator_hidden(self, ids: Tensor, layout: Layout, depths: Sequence[int] = ()) -> Hidden:
        """Hidden states of the discriminator for token ids (B,S), also after the layers ``depths``."""
        encoder = cast(Encoder, self.discriminator)
        return encoder(self.sharing.embed_discriminator(ids, layout), layout, depths)
