"""What a new run's networks start from, beyond the seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from data_pipeline.errors import UserError
from data_pipeline.tokenize.tokenizer import load_tokenizer
from electra_scale.data.store import Store, special_tokens
from electra_scale.model.electra import Electra
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.recipe.phases import Phase
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import PretrainModule, build_module
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.engine.engine import consolidated_weights
from electra_scale.train.engine.weights import load_weights

if TYPE_CHECKING:
    from electra_scale.model.starts.start import Start

_COOCCURRENCE_TOKENS = 20_000_000


def set_first_weights(electra: Electra, recipe: Recipe, store: Store, log: Callable[[str], None]) -> Start | None:
    """Set what ``recipe.model`` asks for: published weights, or embeddings and biases from the store's text.

    Returns what became of each part where weights were loaded. Raises UserError for weights that can't be read, do not
    fit or have another tokenizer than the store.
    """
    model, seed = recipe.model, recipe.seed
    if model.init_from is not None:
        found = _loaded_weights(electra, recipe, store, Path(model.init_from), log)
        for line in found.lines():
            log(line)
        for name in ("cooccurrence_embeddings", "unigram_bias"):
            if getattr(model, name):
                log(f"model.{name} is left out, since weights start from {model.init_from}")
        never = recipe.optimizer.generator_rate == 0 and recipe.generator_warmup.steps == 0
        if never and "generator" in found.fresh and electra.generator is not None:
            raise UserError(
                f"optimizer.generator_rate is 0 and the generator does not start from {model.init_from}, so it would "
                "stay random: set a rate above 0, or generator_warmup.steps"
            )
        return found
    config = electra.config
    if model.cooccurrence_embeddings:
        # scipy's sparse matrices take as long to import as the whole of our code.
        from electra_scale.model.cooccurrence import cooccurrence_embeddings

        log("computing co-occurrence embeddings")
        ids, offsets = store.documents("train", _COOCCURRENCE_TOKENS)
        vectors = cooccurrence_embeddings(
            ids, offsets, config.vocab_size, config.embedding, seed=seed, std=config.init_std
        )
        with torch.no_grad():
            electra.word_embeddings.copy_(torch.from_numpy(vectors))
        electra.hold_constant()
    if model.unigram_bias:
        counts = torch.from_numpy(store.token_counts()).double() + 1.0
        assert electra.generator_head is not None
        with torch.no_grad():
            electra.generator_head.bias.copy_((counts / counts.sum()).log())
    return None


def _loaded_weights(electra: Electra, recipe: Recipe, store: Store, folder: Path, log: Callable[[str], None]) -> Start:
    # transformers takes seconds to import, in every rank, and a run needs it only here.
    from electra_scale.model.hf import tokenizer_differs
    from electra_scale.model.starts.start import start_from_folder, start_from_run

    networks = recipe.model.init_networks
    vocabulary = load_tokenizer(store.tokenizer_dir.parent).get_vocab(with_added_tokens=True)
    where = f"store {store.url}"
    run = RunFolder(folder)
    if not run.recipe.is_file():
        return start_from_folder(folder, networks, electra, vocabulary, where, log)
    tokenizer_differs(run.tokenizer, vocabulary, where)
    theirs = recipe_of_run(run.recipe)
    tag = checkpoint.tag_at(run.checkpoints, None)
    module = load_module(run, theirs, tag, networks_only=True, warmup=True)
    phase = cast(Phase, checkpoint.read_state(run.checkpoints, tag).phase)
    return start_from_run(f"{folder}, step {checkpoint.step_of(tag)}", module.electra, phase, networks, electra)


def load_module(
    folder: RunFolder, recipe: Recipe, tag: str, networks_only: bool = False, warmup: bool = False
) -> PretrainModule:
    """The networks of a checkpoint of the joint phase, on the CPU in float32.

    With ``warmup``, one of masked prediction alone is taken too; what that does not train has the seed's first weights.

    Raises UserError, without ``warmup``, for one of the warm-up; for a damaged one, if the run folder's tokenizer is
    not that of the checkpoint, and, unless only the networks are wanted, for one that was saved before the run was
    resumed with another sampler.
    """
    state = checkpoint.read_state(folder.checkpoints, tag)
    if state.phase != "joint" and not warmup:
        where = f"checkpoint {folder.checkpoints / tag} is of"
        if state.phase == "mlm":
            raise UserError(f"{where} masked language modelling alone (task.kind mlm), which trains no discriminator")
        raise UserError(f"{where} the generator's warm-up, in which no discriminator is trained; choose a later one")
    checkpoint.refuse_damaged(folder.checkpoints, tag)
    folder.refuse_other_tokenizer(state.tokenizer)
    weights = consolidated_weights(folder.checkpoints, tag)
    config = recipe.networks(int(weights["electra.embeddings.word.weight"].shape[0]))
    module = build_module(recipe, config, special_tokens(folder.tokenizer), "joint")
    if state.phase != "joint":
        # What the warm-up does not train is not in it.
        weights = module.state_dict() | weights
    _, lines = load_weights(module, weights, f"checkpoint {folder.checkpoints / tag}")
    if lines and not networks_only:
        raise UserError(
            f"checkpoint {folder.checkpoints / tag} was saved before the run was resumed with another sampler "
            f"({folder.changes.name}): {lines[0]}; choose a later one"
        )
    return module
