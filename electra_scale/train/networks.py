"""What a new run's networks start from, beyond the seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from data_pipeline.errors import UserError
from data_pipeline.tokenize.tokenizer import load_tokenizer
from electra_scale.data.store import Store, special_tokens
from electra_scale.model.electra import Electra
from electra_scale.recipe.model import ModelSection
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import PretrainModule, build_module
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.engine.engine import consolidated_weights
from electra_scale.train.engine.weights import load_weights

_COOCCURRENCE_TOKENS = 20_000_000


def set_first_weights(
    electra: Electra, model: ModelSection, store: Store, seed: int, log: Callable[[str], None]
) -> None:
    """Set what ``model`` asks for: weights of an exported checkpoint, or embeddings and biases from the store's text.

    Raises UserError for a checkpoint that can't be read, does not fit or has another tokenizer than the store.
    """
    if model.init_from is not None:
        # transformers takes seconds to import, in every rank, and a run needs it only here.
        from electra_scale.model.hf import import_checkpoint, tokenizer_differs

        folder = Path(model.init_from)
        vocabulary = load_tokenizer(store.tokenizer_dir.parent).get_vocab(with_added_tokens=True)
        for network in ("discriminator", "generator"):
            if (folder / network).is_dir():
                line = tokenizer_differs(folder / network, vocabulary, f"store {store.url}")
                if line is not None:
                    log(f"warning: {line}")
        import_checkpoint(folder / "discriminator", folder / "generator", electra)
        log(f"weights start from {folder}")
        return
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


def load_module(
    folder: RunFolder, recipe: Recipe, tag: str, networks_only: bool = False, warmup: bool = False
) -> PretrainModule:
    """The networks of a checkpoint of the joint phase, on the CPU in float32.

    With ``warmup``, one of the generator's warm-up is taken too; what that does not train has the seed's first weights.

    Raises UserError, without ``warmup``, for one of the warm-up; for a damaged one, if the run folder's tokenizer is
    not that of the checkpoint, and, unless only the networks are wanted, for one that was saved before the run was
    resumed with another sampler.
    """
    state = checkpoint.read_state(folder.checkpoints, tag)
    if state.phase != "joint" and not warmup:
        raise UserError(
            f"checkpoint {folder.checkpoints / tag} is of the generator's warm-up, in which no discriminator is "
            "trained; choose a later one"
        )
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
