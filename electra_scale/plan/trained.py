"""How many parameters a phase trains, and how ranks keep them."""

from __future__ import annotations

from dataclasses import dataclass

from electra_scale.corruption.corruption import cost_of
from electra_scale.model.cost import parameter_counts
from electra_scale.recipe.model import ModelConfig
from electra_scale.recipe.phases import Phase, trained_parts
from electra_scale.recipe.recipe import Recipe


@dataclass(frozen=True)
class TrainedCounts:
    """Parameters that train: ``shared``, of whose state each rank has a part; ``replicated`` ones of the networks, of
    which it has all; and those of the sampling ``head``, which is replicated too, and in float32."""

    shared: int
    replicated: int
    head: int


def trained_counts(recipe: Recipe, phase: Phase, model: ModelConfig) -> TrainedCounts:
    """Parameters that a phase of the recipe trains."""
    counts, training = parameter_counts(model, recipe.corruption.uses_generator), trained_parts(recipe, phase)
    replicated = {name for name, part in training.items() if part.replicated}
    head = cost_of(recipe.corruption, model).parameters if "sampler" in training else 0
    return TrainedCounts(counts.of(training.keys() - replicated), counts.of(replicated), head)
