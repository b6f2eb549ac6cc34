"""Exported networks: they hold no sampling head, so replacements are drawn from the generator's own distribution."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.tokenize.roles import ROLES
from data_pipeline.tokenize.tokenizer import parse_tokenizer
from electra_scale.corruption.corruption import Corruption
from electra_scale.corruption.sampler import Distributions, Masked
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.vocabulary.distributions import distributions
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.batch import Batch
from electra_scale.export.transformers_folder import detection, quiet
from electra_scale.inside.looked import About
from electra_scale.inside.networks import open_network
from electra_scale.inside.opened import Opened
from electra_scale.inside.reading import Reader
from electra_scale.model.attention.layout import Layout

MASK_SHARE = 0.15
"""Share of the tokens that random masks take where no recipe says (Clark et al. 2020)."""

_P_ONLY = "An export has no sampling head: there is p only, and replacements are drawn from it. A run folder shows q."
_NO_GENERATOR = "There is no generator: the discriminator scores the text as it is, and nothing can be masked."
_NO_DISCRIMINATOR = "There is no discriminator: replacements are drawn, and nothing scores them."


class OpenedFolder(Opened):
    """Transformers' own networks, one or both; rows are whole texts, without padding.

    Raises UserError for a folder without the network that it should hold, and for two with different tokenizers.
    """

    def __init__(self, name: str, discriminator: Path | None, generator: Path | None) -> None:
        quiet()
        self.sampler = ElectraSampler()
        self.discriminator: Any = None
        self.generator: Any = None
        tokenizers = []
        if discriminator is not None:
            tokenizer, self.discriminator = open_network(discriminator, "discriminator")
            tokenizers.append(tokenizer)
        if generator is not None:
            tokenizer, self.generator = open_network(generator, "generator")
            tokenizers.append(tokenizer)
        if any(tokenizer.get_vocab() != tokenizers[0].get_vocab() for tokenizer in tokenizers):
            raise UserError(f"{discriminator} and {generator} have different tokenizers; export both from one run")
        networks = [network for network in (self.discriminator, self.generator) if network is not None]
        longest = min(int(network.config.max_position_embeddings) for network in networks)
        where = str(discriminator or generator)
        backend = getattr(tokenizers[0], "backend_tokenizer", None)
        if backend is None:
            raise UserError(f"the tokenizer in {where} does not say which characters a token stands for; export again")
        named = {role: getattr(tokenizers[0], role, None) for role in ROLES}
        self.reader = Reader(*parse_tokenizer(backend.to_str().encode(), where, named), longest)
        notes = _NO_GENERATOR if generator is None else _NO_DISCRIMINATOR if discriminator is None else _P_ONLY
        self.about = About(
            name=name,
            step=None,
            draws="" if generator is None else "Replacements are drawn from p, the generator's own distribution.",
            notes=(notes,),
            generates=generator is not None,
            detects=discriminator is not None,
            longest=longest,
            mask_share=MASK_SHARE,
        )

    def corrupt(self, batch: Batch, layout: Layout) -> Corruption:
        original = batch.ids.flatten()[batch.masked]
        shown = torch.where(batch.shown_as_mask, self.reader.special.mask, original)
        ids = batch.ids.flatten().index_copy(0, batch.masked, shown).view_as(batch.ids)
        head = self.generator.get_output_embeddings()
        given: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        try:
            self.generator(ids)
        finally:
            handle.remove()
        features = given[0].flatten(0, 1)[batch.masked]
        masked = Masked(features, head.weight, head.bias, features, original, batch.uniform)
        drawn = propose(self.sampler, masked)
        replaced = batch.ids.flatten().index_copy(0, batch.masked, drawn.tokens).view_as(batch.ids)
        return Corruption(
            replaced, replaced != batch.ids, torch.ones_like(batch.ids).float(), batch.masked, (masked, drawn)
        )

    def distributions(self, corruption: Corruption) -> Iterator[Distributions] | None:
        masked, _ = corruption.proposal
        return distributions(masked, self.sampler)

    def scores(self, ids: Tensor, layout: Layout) -> Tensor:
        return detection(self.discriminator(ids)).sigmoid()
