"""Generator and discriminator over one shared embedding layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from electra_scale.model.architectures.bert import Encoder
from electra_scale.model.embeddings import Embeddings
from electra_scale.model.heads import DiscriminatorHead, GeneratorHead
from electra_scale.model.initialisation import initialise, sinusoids
from electra_scale.recipe.model import ModelConfig


class Electra(nn.Module):
    """The networks of ELECTRA pre-training (Clark et al. 2020, section 3).

    Shared by both: word, position and token-type embeddings and their LayerNorm. Not shared: the
    projections from E to H, the encoders, the heads. The generator's output weights are the shared word
    embeddings.

    Args:
        config: sizes.
        seed: seed of the initial weights; the global random state is neither read nor moved.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        # torch's layers fill themselves from the global generator; fork it so that nobody notices.
        with torch.random.fork_rng(devices=[]):
            self.embeddings = Embeddings(config)
            self.generator = Encoder(config.generator, config.embedding, config)
            self.generator_head = GeneratorHead(
                config.generator.hidden, config.embedding, config.vocab_size, config.layer_norm_eps
            )
            self.discriminator = Encoder(config.discriminator, config.embedding, config)
            self.discriminator_head = DiscriminatorHead(config.discriminator.hidden)
        self.initialise(seed)

    def initialise(self, seed: int) -> None:
        """Set all weights again from ``seed``: truncated normal matrices, zero biases, LayerNorm 1 and 0.

        A parameter's values depend on the seed, its name and its shape only. The model must be on the CPU.
        """
        initialise(self, self.config.init_std, seed, self.config.init)
        if self.config.position_init == "sinusoidal":
            table = self.embeddings.position.weight
            with torch.no_grad():
                table.copy_(sinusoids(table.shape[0], table.shape[1], self.config.init_std))

    @property
    def word_embeddings(self) -> Tensor:
        """(V,E) word embeddings: both networks' input, and the generator's output weights."""
        return self.embeddings.word.weight

    def generator_hidden(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Hidden states of the generator; its head is applied by the caller, at masked positions.

        Args:
            ids: (B,S) int64 masked token ids.
            positions: (B,S) int64 position ids.
            mask: (B,1,S,S) bool attention mask, or None.

        Returns:
            (B,S,H) with the generator's H.
        """
        return self.generator(self.embeddings(ids, positions), mask)

    def discriminator_logits(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Logit that each token was replaced.

        Args:
            ids: (B,S) int64 token ids with the replacements in place.
            positions: (B,S) int64 position ids.
            mask: (B,1,S,S) bool attention mask, or None.

        Returns:
            (B,S) logits, positive for replaced.
        """
        return self.discriminator_head(self.discriminator(self.embeddings(ids, positions), mask))
