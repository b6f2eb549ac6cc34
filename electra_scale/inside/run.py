"""A run's checkpoint: generator, sampler and discriminator as they were in training at that step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from data_pipeline.tokenize.roles import BERT_ROLES, Roles
from data_pipeline.tokenize.tokenizer import load_with_roles
from electra_scale.corruption.corruption import Clock, Corruption
from electra_scale.corruption.sampler import Distributions
from electra_scale.data.batch import Batch
from electra_scale.inside.looked import About
from electra_scale.inside.opened import Opened
from electra_scale.inside.reading import Reader
from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.recipe.phases import phases
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import PretrainModule
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.checkpoint.state import RunState
from electra_scale.train.networks import load_module

_WARMUP = (
    "This checkpoint is of the generator's warm-up: neither sampler nor discriminator has been trained, so nothing is "
    "scored, and draws are those of the first joint step."
)

_MASKED = (
    "This run is a masked language model (task.kind mlm): it has no discriminator, so nothing is scored, and draws "
    "come from the model itself or from a sampler that has not been trained."
)


class OpenedRun(Opened):
    """Draws come from q as the next step would draw them: the weights of the checkpoint, and its step's schedules.

    In the generator's warm-up, where nothing is drawn, they are those of the first joint step.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        state: RunState,
        module: PretrainModule,
        tokenizer: Tokenizer,
        roles: Roles = BERT_ROLES,
    ) -> None:
        self.recipe = recipe
        self.state = state
        self.module = module.eval().requires_grad_(False)
        self.clock = Clock.of(state.step, int(state.loader.get("epoch", 0)), phases(recipe)[-1])
        # Positions beyond the rows of training have embeddings that nothing has trained.
        longest = min(recipe.data.sequence_length, recipe.model.max_positions)
        self.reader = Reader(tokenizer, roles, longest)
        warmup = state.phase != "joint"
        notes = [_WARMUP if state.phase == "generator_warmup" else _MASKED] if warmup else []
        if not recipe.corruption.uses_generator:
            notes.append("The run has no generator, so there is no p.")
        self.about = About(
            name=name,
            step=state.step,
            draws=f"Replacements are drawn as in training: {recipe.corruption.label}.",
            notes=tuple(notes),
            generates=True,
            detects=not warmup,
            longest=longest,
            mask_share=recipe.data.mask_share,
        )

    def corrupt(self, batch: Batch, layout: Layout) -> Corruption:
        return self.module.corruptor.corrupt(self.module.electra, batch, layout, self.clock)

    def distributions(self, corruption: Corruption) -> Iterator[Distributions] | None:
        return self.module.corruptor.distributions(corruption, self.clock)

    def scores(self, ids: Tensor, layout: Layout) -> Tensor:
        electra = self.module.electra
        logits: Tensor = electra.discriminator_head(electra.discriminator_hidden(ids, layout).last)
        return logits.sigmoid()


def open_checkpoint(run: Path, step: int | None = None) -> OpenedRun:
    """A run's newest checkpoint, or that of ``step``.

    Raises UserError if there is no such checkpoint, or if it is damaged or from before the run was resumed with another
    sampler.
    """
    folder = RunFolder(run)
    recipe = recipe_of_run(folder.recipe)
    tag = checkpoint.tag_at(folder.checkpoints, step)
    module = load_module(folder, recipe, tag, warmup=True)
    return OpenedRun(str(run), recipe, checkpoint.read_state(folder.checkpoints, tag), module, *load_with_roles(run))
