"""The average of a run's last checkpoints: their weights go in, one export comes out."""

from __future__ import annotations

from pathlib import Path

import torch

from data_pipeline.errors import UserError
from data_pipeline.places.new_folder import free_folder
from electra_scale.export.card import check_licence
from electra_scale.export.run import export_networks, trained_networks
from electra_scale.export.run_facts import facts_of_run
from electra_scale.model.hf import networks_of
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.engine.engine import consolidated_weights
from electra_scale.train.networks import load_module


def average_run(
    run: Path, last: int, out: Path | None = None, licence: str | None = None
) -> tuple[Path, list[int], list[str]]:
    """Write the mean of the weights of a run's newest ``last`` checkpoints, as :func:`export_run` writes one's.

    Weights are added up in float32, with one checkpoint in memory at a time besides the sum. Returns the folder
    (``RUN/average/step-NNNNNNNN-last-K`` if none is given), the steps, oldest first, and the names of the networks:
    the generator alone if the checkpoints are of its warm-up.

    Raises:
        UserError: there are fewer checkpoints, one is of another phase, size or tokenizer or is damaged, or ``out`` is
            not empty.
    """
    if last < 2:
        raise UserError(f"--last is {last}; an average needs at least 2 checkpoints (electra-scale export writes one)")
    check_licence(licence)
    folder = RunFolder(run)
    recipe = recipe_of_run(folder.recipe)
    tags = checkpoint.complete_tags(folder.checkpoints)
    if len(tags) < last:
        raise UserError(
            f"{run} has {len(tags)} finished checkpoints ({', '.join(tags) or 'none'}), not {last}; give a smaller "
            "--last, or keep more of them in training (checkpoint.keep, checkpoint.keep_every)"
        )
    tags = tags[-last:]
    states = [checkpoint.read_state(folder.checkpoints, tag) for tag in tags]
    for tag, state in zip(tags, states, strict=True):
        if state.phase != states[-1].phase:
            raise UserError(
                f"checkpoint {tag} of {run} is of the phase {state.phase}, {tags[-1]} of {states[-1].phase}: they "
                "cannot be averaged; give a smaller --last"
            )
        if state.tokenizer != states[-1].tokenizer:
            raise UserError(f"checkpoints {tag} and {tags[-1]} of {run} have other tokenizers; give a smaller --last")
    target = free_folder(out or folder.path / "average" / f"{tags[-1]}-last-{last}", "average")
    module = load_module(folder, recipe, tags[-1], networks_only=True, warmup=True)
    networks = trained_networks(module.electra, states[-1].phase)
    # A checkpoint of the warm-up holds nothing of a network that it does not train.
    others = tuple(
        f"{network}{part}."
        for network in networks_of(module.electra)
        if network not in networks
        for part in ("", "_head")
    )
    sums = {
        f"electra.{name}": value for name, value in module.electra.named_parameters() if not name.startswith(others)
    }
    for tag in reversed(tags[:-1]):
        checkpoint.refuse_damaged(folder.checkpoints, tag)
        weights = consolidated_weights(folder.checkpoints, tag)
        wrong = next((name for name in sums if name not in weights or weights[name].shape != sums[name].shape), None)
        if wrong is not None:
            raise UserError(
                f"checkpoint {tag} of {run} has networks of another size than {tags[-1]} ({wrong}): they cannot be "
                "averaged; give a smaller --last"
            )
        with torch.no_grad():
            for name, value in sums.items():
                value.add_(weights[name])
    with torch.no_grad():
        for value in sums.values():
            value.div_(last)
    steps = [state.step for state in states]
    export_networks(module.electra, folder, target, facts_of_run(folder, recipe, steps), licence, networks)
    return target, steps, list(networks)
