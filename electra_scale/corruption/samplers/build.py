"""From the recipe's objective to a sampler."""

from __future__ import annotations

import torch
from torch import Tensor

from electra_scale.corruption.sampler import Sampler
from electra_scale.corruption.samplers.fixed import ElectraSampler, TemperatureSampler
from electra_scale.corruption.samplers.head import SamplingHead
from electra_scale.corruption.samplers.hp_dist import HardnessDistributionSampler
from electra_scale.corruption.samplers.hp_loss import HardnessLossSampler, TwoScalarSampler
from electra_scale.recipe.corruption import GeneratorSettings
from electra_scale.recipe.model import ModelConfig


def build_sampler(objective: GeneratorSettings, model: ModelConfig, seed: int) -> Sampler:
    """The sampler that the recipe names; a head that the sampler does not use is not created."""
    sampler = _named(objective, model, seed)
    sampler.allow_original = objective.allow_original
    return sampler


def _named(objective: GeneratorSettings, model: ModelConfig, seed: int) -> Sampler:
    if objective.sampler == "electra":
        return ElectraSampler()
    if objective.sampler == "temperature":
        return TemperatureSampler(objective.temperature, objective.temperature_end)
    if objective.sampler == "two_scalars":
        return TwoScalarSampler(objective)
    head = SamplingHead(
        hidden=model.generator.hidden,
        embedding=model.embedding,
        width=objective.head.width,
        own_token=objective.head.own_token,
        init_std=model.init_std,
        seed=seed,
        # A level common to all tokens cancels in a distribution; only the fitted loss needs one.
        level=objective.sampler == "hp_loss",
        layer_norm_eps=model.architecture.layer_norm_eps,
    )
    if objective.sampler == "hp_loss":
        permutation = _permutation(model.vocab_size, seed) if objective.head.shuffled else None
        return HardnessLossSampler(head, objective, permutation)
    return HardnessDistributionSampler(head, objective)


def _permutation(vocabulary: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(vocabulary, generator=generator)
