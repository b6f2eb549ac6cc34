"""From a run folder to Hugging Face checkpoints."""

from __future__ import annotations

from pathlib import Path

from data_pipeline.errors import UserError
from electra_scale.config import Recipe, recipe_of_run
from electra_scale.data.store import special_tokens
from electra_scale.model import Electra
from electra_scale.model.hf import export
from electra_scale.replacement import build_sampler
from electra_scale.train import checkpoint
from electra_scale.train.engine import consolidated_weights
from electra_scale.train.module import PretrainModule
from electra_scale.train.run_folder import RunFolder


def export_run(run: Path, out: Path, step: int | None = None) -> int:
    """Write ``out/discriminator`` and ``out/generator`` from a run's newest checkpoint, or that of ``step``.

    Returns the step. Raises UserError if there is no such checkpoint, or if ``out`` is not empty.
    """
    folder = RunFolder(run)
    recipe = recipe_of_run(folder.recipe)
    tags = checkpoint.complete_tags(folder.checkpoints)
    if not tags:
        raise UserError(f"{run} has no finished checkpoint in {folder.checkpoints}; train it first")
    tag = tags[-1] if step is None else checkpoint.tag_of(step)
    if tag not in tags:
        raise UserError(f"{run} has no checkpoint {tag}; it has {', '.join(tags)}")
    module = load_module(folder, recipe, tag)
    export(module.electra, folder.tokenizer, out)
    return checkpoint.read_state(folder.checkpoints, tag).step


def load_module(folder: RunFolder, recipe: Recipe, tag: str) -> PretrainModule:
    """The networks of a checkpoint on the CPU in float32. Parts that its phase does not train are as saved."""
    weights = consolidated_weights(folder.checkpoints, tag)
    config = recipe.model.resolve(int(weights["electra.embeddings.word.weight"].shape[0]))
    electra = Electra(config, recipe.seed)
    sampler = build_sampler(recipe.objective, config, recipe.seed)
    module = PretrainModule(electra, sampler, recipe.objective, special_tokens(folder.tokenizer), "joint")
    module.load_state_dict(weights, strict=True)
    return module
