"""The variance probe as a command: a checkpoint goes in, a table and a JSON file of its figures come out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from data_pipeline.places.json_file import finite_values
from data_pipeline.progress import tracking
from electra_scale.cluster.ranks import Alone
from electra_scale.corruption.corruption import Clock
from electra_scale.data.loader import Loader, open_loader
from electra_scale.data.store import Store, special_tokens
from electra_scale.monitor.draw_variance import GRADIENT_PARTS, bucket_figures, draw_figures, source_figures
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.recipe.phases import phases
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import PretrainModule
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.heldout.probe import probe
from electra_scale.train.networks import load_module


@dataclass(frozen=True)
class Probed:
    """A checkpoint with its networks on ``device`` and the rows that it is probed with, of ``split`` of the store."""

    recipe: Recipe
    tag: str
    state: checkpoint.RunState
    module: PretrainModule
    store: Store
    split: str
    loader: Loader
    device: torch.device

    @property
    def clock(self) -> Clock:
        """What its schedules are functions of."""
        return Clock.of(self.state.step, 0, phases(self.recipe)[-1])


def open_probed(run: Path, step: int | None, store_url: str | None) -> Probed:
    """A run's newest checkpoint, or that of ``step``, with rows that are spread over its store's held-out text.

    Over the training text if the store has no other. Raises UserError if the checkpoint does not exist or has no
    trained discriminator, and for another store than that of the run.
    """
    folder = RunFolder(run)
    recipe = recipe_of_run(folder.recipe)
    if not recipe.corruption.uses_generator:
        raise UserError(
            f"{run} was trained with corruption.kind {recipe.corruption.kind}, which has no generator, so there are no "
            "draws from p and from q to compare"
        )
    tag = checkpoint.tag_at(folder.checkpoints, step)
    state = checkpoint.read_state(folder.checkpoints, tag)
    if state.phase == "mlm":
        raise UserError(f"{run} trains a masked language model alone (task.kind mlm), so there are no draws to compare")
    if state.phase != "joint":
        raise UserError(
            f"{tag} of {run} was saved in the generator warm-up, which trains no discriminator; choose a later --step"
        )
    store = Store(store_url or recipe.data.store, recipe.data.cache)
    tokenizer = store.manifest.tokenizer.fingerprint
    if tokenizer != state.tokenizer:
        raise UserError(
            f"{run} was trained with tokenizer {state.tokenizer}, but the store {store.url} has {tokenizer}; "
            "name the store of the run with --store"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = load_module(folder, recipe, tag).to(device)
    split = "heldout" if store.manifest.split("heldout") else "train"
    loader = open_loader(recipe, store, split, special_tokens(store.tokenizer_dir), training=False)
    return Probed(recipe, tag, state, module, store, split, loader, device)


def probe_run(run: Path, step: int | None, samples: int, draws: int, store_url: str | None) -> Path:
    """Probe a run's newest checkpoint, or that of ``step``, in this process; print the figures and write them.

    Returns the file that it writes, ``probe/step-NNNNNNNN.json``. Raises UserError as :func:`open_probed` does.
    """
    if samples < 1 or draws < 2:
        raise UserError(f"--samples is {samples} and --draws {draws}; they must be at least 1 and 2")
    found = open_probed(run, step, store_url)
    recipe, state, store, loader = found.recipe, found.state, found.store, found.loader
    samples = min(samples, loader.samples)
    with tracking(samples, 0, "probe", unit="sample") as advance:
        redrawn = probe(
            found.module,
            loader,
            samples,
            draws,
            recipe.data.mask_share,
            recipe.batch.most_per_device,
            Alone(found.device),
            found.clock,
            advance,
        )
    figures, buckets = draw_figures(redrawn), bucket_figures(redrawn, store.token_counts())
    by_source = source_figures(redrawn, loader.sources(np.arange(samples)))
    content = {
        "run": str(run),
        "step": state.step,
        "store": store.url,
        "split": found.split,
        "sampler": recipe.corruption.sampler,
        "weight_power": recipe.corruption.power,
        "other_objective": list(recipe.corruption.other_objective),
        "figures": figures,
        "frequency": buckets,
        "sources": by_source,
    }
    path = run / "probe" / f"{found.tag}.json"
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, json.dumps(finite_values(content), indent=1).encode() + b"\n")
    print(
        f"{run}, step {state.step}, {recipe.corruption.label}\n"
        f"{samples} {found.split} samples, {len(redrawn.sample)} masked positions, {draws} draws from p and from q\n\n"
        f"{_table(figures, bool(recipe.corruption.other_objective))}\n\n"
        f"{_frequency_table(buckets)}\n{_source_table(by_source)}\nwritten: {path}"
    )
    return path


def _table(figures: Mapping[str, float], other_objective: bool) -> str:
    """``other_objective``: the two means are of different objectives, and their difference is no error of a weight."""
    lines = [_row("", "from p", "from q", "q / p")]

    def compare(name: str, p: str, q: str, ratio: str = "", error: str = "") -> None:
        found = f"{figures[ratio]:.3f}" if ratio else ""
        found += f" +- {figures[error]:.3f}" if error else ""
        lines.append(_row(name, f"{figures[p]:.4g}", f"{figures[q]:.4g}", found))

    compare("variance of w l, mean over positions", "draw_p", "draw_q", "draw_ratio", "draw_ratio_error")
    compare("variance of the mean of w l", "batch_mean_p", "batch_mean_q", "batch_mean_ratio")
    for part, label in (("", "both"), *((f" {name}", name) for name in GRADIENT_PARTS)):
        keys = (f"gradient_{which}{part}" for which in ("p", "q", "ratio", "ratio_error"))
        compare(f"variance of the gradient, {label}", *keys)
    compare("share of draws equal to the original", "identical_p", "identical_q")
    compare("mean of w l", "mean_loss_p", "mean_weighted_loss_q")
    difference = f"{figures['mean_difference']:.2g} +- {figures['mean_difference_error']:.2g}"
    lines.append(_row("  difference" + (", two objectives" if other_objective else ""), "", difference))
    for name, key in (
        ("effective sample size / draws", "ess"),
        ("largest w", "weight_max"),
        ("rank correlation of q/p with l, within", "hardness_rank_correlation_within"),
        ("rank correlation of q/p with l, pooled", "hardness_rank_correlation_pooled"),
    ):
        lines.append(_row(name, "", f"{figures[key]:.4g}"))
    return "\n".join(lines)


def _row(name: str, p: str, q: str, ratio: str = "") -> str:
    return f"{name:<40}{p:<12}{q:<12}{ratio}".rstrip()


def _frequency_table(buckets: list[dict[str, float]]) -> str:
    lines = ["by frequency of the original token in the training text:", _head("count of the token")]
    for bucket in buckets:
        lines.append(_group_row(f"{bucket['least_count']:,.0f} to {bucket['most_count']:,.0f}", bucket))
    return "\n".join(lines)


def _source_table(by_source: Mapping[str, Mapping[str, float]]) -> str:
    """Nothing where there is one source."""
    if len(by_source) < 2:
        return ""
    rows = [_group_row(source, figures) for source, figures in by_source.items()]
    return "\n".join(["", "by source:", _head("source"), *rows, ""])


def _head(first: str) -> str:
    names = ("positions", "draw_p", "draw_q", "q / p", "same, p", "same, q", "l, p", "l, q")
    return f"{first:<24}" + "".join(f"{name:>10}" for name in names)


def _group_row(label: str, figures: Mapping[str, float]) -> str:
    keys = ("draw_p", "draw_q", "draw_ratio", "identical_p", "identical_q", "mean_loss_p", "mean_loss_q")
    return f"{label:<24}{figures['positions']:>10,.0f}" + "".join(f"{figures[key]:>10.3f}" for key in keys)
