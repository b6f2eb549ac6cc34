"""What an arm costs: operations and tokens of its whole run, the warm-up that it starts from included."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.study.arms import Study
from electra_scale.corruption.corruption import cost_of
from electra_scale.data.loader import Loader
from electra_scale.data.split import Split
from electra_scale.data.store import Store, special_tokens
from electra_scale.monitor.batch_flops import BatchFlops
from electra_scale.recipe.batch import batch_split
from electra_scale.recipe.phases import Phase, PhasePlan, phases, trained_parts
from electra_scale.recipe.recipe import Recipe

_BATCHES = 16
"""Of which the operations of a step are a mean; they differ by how long the documents in them are."""


@dataclass(frozen=True)
class PhaseCost:
    """``flops`` and ``tokens`` are those of one step: a mean over batches, and positions of rows."""

    name: Phase
    steps: int
    flops: float
    tokens: int


@dataclass(frozen=True)
class ArmCost:
    """All phases of an arm, the warm-up that it starts from among them."""

    phases: tuple[PhaseCost, ...]

    @property
    def flops(self) -> float:
        """Operations of all steps."""
        return sum(phase.steps * phase.flops for phase in self.phases)

    @property
    def tokens(self) -> int:
        """Positions of all rows of all steps."""
        return sum(phase.steps * phase.tokens for phase in self.phases)

    def flops_at(self, step: int) -> float:
        """Operations up to a step of the last phase, those of the phases before it included."""
        last = self.phases[-1]
        return self.flops - (last.steps - step) * last.flops


def costs(study: Study) -> dict[str, ArmCost]:
    """The cost of each arm; nothing where the store is not built yet."""
    if not (study.store / "manifest.json").is_file():
        return {}
    store = Store(study.store)
    return {arm: arm_cost(study.recipe(arm), store) for arm in study.arms}


def arm_cost(recipe: Recipe, store: Store) -> ArmCost:
    """Operations as ``speed/mfu`` counts them (attention within documents, nothing for padding) for training rows of a
    store, and those of the sampling head."""
    return ArmCost(tuple(_phase(recipe, store, plan) for plan in phases(recipe)))


def _phase(recipe: Recipe, store: Store, plan: PhasePlan) -> PhaseCost:
    length, rows = recipe.data.sequence_length, recipe.batch.global_batch
    config = recipe.networks(store.manifest.tokenizer.vocab_size)
    joint = plan.name == "joint"
    work = BatchFlops(config, length, joint, recipe.corruption.uses_generator, trained_parts(recipe, plan.name))
    special = special_tokens(store.tokenizer_dir)
    loader = Loader(Split(store, "train", special, recipe.data), 0, rows, shuffle=False, spread=True)
    _, times = batch_split(rows, 1, recipe.batch.most_per_device)
    head = cost_of(recipe.corruption, config)
    found = []
    for first in range(0, min(_BATCHES * rows, loader.samples - rows + 1), rows):
        batch = loader.batch(0, first, rows, plan.mask_share)
        found.append(work(batch))
        if joint:
            found[-1] += times * head.flops(len(batch.masked) // times)
    return PhaseCost(plan.name, plan.last - plan.first, sum(found) / len(found), length * rows)
