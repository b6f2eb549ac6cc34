"""How well a run's discriminator finds replacements of fixed generators, and how well its own is calibrated.

python -m benchmarks.study.detection RUN --generator OTHER_RUN [OTHER_RUN ...] --samples 2048 --out FILE.json

It is asked of each checkpoint that the run has kept. Every run meets the same held-out samples with the same masks and
the same replacements, so that what differs is the discriminator alone: against its own generator, one that learned less
would look better. A discriminator that has learned from a generator of one kind might know that kind's replacements
best, so with several generators its figures are means over all of them. A run of masked prediction alone has no
discriminator, so only what it predicts is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from electra_scale.corruption.corruption import Corruption
from electra_scale.corruption.generator import GeneratorCorruption
from electra_scale.corruption.sampler import Masked
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.vocabulary.vocabulary_pass import vocabulary_pass
from electra_scale.data.batch import Batch
from electra_scale.data.loader import Loader
from electra_scale.data.split import Split
from electra_scale.data.store import Store
from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.detection import auc, detection_statistics
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.replaced_tokens import ReplacedTokens
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.networks import load_module

SEED = 0x57D1
"""Of the masks and draws, whatever the run's own seed."""
_ROWS = 64
_BY_LABEL = ("logits_replaced", "logits_original")
_BINS = 15


def masked_positions(generator: PretrainModule, batch: Batch) -> Masked:
    """What a module's generator says about the masked positions."""
    corruptor = generator.corruptor
    assert isinstance(corruptor, GeneratorCorruption)
    return corruptor.masked_positions(generator.electra, batch, Layout.of(batch.segment))


@torch.no_grad()
def corrupted(generator: PretrainModule, batch: Batch) -> Tensor:
    """The batch's ids (B, S) with every masked position redrawn from the generator."""
    drawn = vocabulary_pass(masked_positions(generator, batch), ElectraSampler()).drawn
    assert drawn is not None
    return batch.ids.flatten().index_copy(0, batch.masked, drawn.tokens).view_as(batch.ids)


@torch.no_grad()
def detection(
    discriminator: PretrainModule, generator: PretrainModule, batches: Iterator[Batch] | list[Batch]
) -> dict[str, float]:
    """AUC over ordinary tokens and mean loss over all, for replacements from ``generator``.

    Only the embeddings, encoder and head of ``discriminator``'s discriminator are used, and only the generator of
    ``generator``, with its own embeddings.
    """
    logits_found: list[dict[str, Tensor]] = []
    loss, tokens = 0.0, 0
    for batch in batches:
        ids = corrupted(generator, batch)
        task = discriminator.task
        assert isinstance(task, ReplacedTokens)
        layout = Layout.of(batch.segment)
        hidden = discriminator.electra.discriminator_hidden(ids, layout)
        corruption = Corruption(ids, ids != batch.ids, (batch.segment >= 0).float(), batch.masked)
        logits, token_loss = task.detect(discriminator.electra, hidden, corruption)
        logits_found.append(detection_statistics(logits, corruption.labels, task.ordinary(batch)))
        real = batch.segment >= 0
        loss, tokens = loss + float((token_loss * real).sum()), tokens + int(real.sum())
    replaced, original = (torch.cat([found[name] for found in logits_found]).numpy() for name in _BY_LABEL)
    return {"auc": auc(replaced, original), "discriminator_loss": loss / tokens}


@torch.no_grad()
def calibration(generator: PretrainModule, batches: Iterator[Batch] | list[Batch]) -> dict[str, float]:
    """How the generator's probabilities fit what is there, over the masked positions.

    ``expected_calibration_error`` compares the probability of the likeliest token with how often it is right, in 15
    bins of equal width (Guo et al. 2017, eq. 3); ``probability`` is the mean p of the original token.
    """
    parts: list[tuple[Tensor, ...]] = []
    for batch in batches:
        masked = masked_positions(generator, batch)
        scores = (masked.features @ masked.word_embeddings.T + masked.bias).float()
        log_p = scores.log_softmax(-1)
        confidence, likeliest = log_p.max(-1)
        own = log_p.gather(1, masked.original[:, None])[:, 0]
        parts.append((confidence.exp(), (likeliest == masked.original).float(), own))
    confidences, right, own_log_p = (torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
    bins = np.minimum((confidences * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, confidences, _BINS) - np.bincount(bins, right, _BINS)
    return {
        "generator_cross_entropy": float(-own_log_p.mean()),
        "generator_accuracy": float(right.mean()),
        "generator_probability": float(np.exp(own_log_p).mean()),
        "generator_confidence": float(confidences.mean()),
        "expected_calibration_error": float(np.abs(gaps).sum() / len(right)),
    }


def load(run: Path, tag: str | None = None) -> tuple[Recipe, PretrainModule]:
    """A run's recipe, and its networks at a checkpoint, the newest if none is named."""
    folder = RunFolder(run)
    recipe = recipe_of_run(folder.recipe)
    tag = tag or checkpoint.complete_tags(folder.checkpoints)[-1]
    return recipe, load_module(folder, recipe, tag, warmup=not recipe.task.detects).eval()


def heldout(recipe: Recipe, module: PretrainModule, samples: int) -> Iterator[Batch]:
    """Samples that are spread over the held-out text of the recipe's store."""
    data = recipe.data
    split = Split(Store(data.store, data.cache), "heldout", module.corruptor.special, data)
    loader = Loader(split, SEED, _ROWS, shuffle=False, spread=True)
    last = min(samples, loader.samples)
    for first in range(0, last, _ROWS):
        yield loader.batch(0, first, min(_ROWS, last - first), data.mask_share)


def measured(module: PretrainModule, generators: Mapping[str, PretrainModule], batches: list[Batch]) -> dict[str, Any]:
    """Detection against each generator, the mean over them, and the cross-entropy of the module's own generator.

    Without detection for masked prediction alone.
    """
    own = {"generator_cross_entropy": calibration(module, batches)["generator_cross_entropy"]}
    if not isinstance(module.task, ReplacedTokens):
        return own
    found = {name: detection(module, generator, batches) for name, generator in generators.items()}
    means = {name: statistics.fmean(one[name] for one in found.values()) for name in next(iter(found.values()))}
    return {**means, **own, "by_generator": found}


def main() -> None:
    parser = argparse.ArgumentParser(description="Test a run's discriminator against other runs' generators.")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--generator", type=Path, nargs="+", required=True, help="run folders whose generators are used"
    )
    parser.add_argument("--samples", type=int, default=2048, help="held-out samples (2048)")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    options = parser.parse_args()
    common = {folder.name: load(folder) for folder in options.generator}
    # The share of masked tokens is theirs for every run, whatever it was trained with.
    data_of = next(iter(common.values()))[0]
    generators = {name: module for name, (_, module) in common.items()}
    by_step: dict[int, dict[str, Any]] = {}
    for tag in checkpoint.complete_tags(RunFolder(options.run).checkpoints):
        _, module = load(options.run, tag)
        step = checkpoint.read_state(RunFolder(options.run).checkpoints, tag).step
        batches = list(heldout(data_of, module, options.samples))
        by_step[step] = measured(module, generators, batches)
    figures = by_step[max(by_step)] | calibration(module, batches)
    options.out.write_text(json.dumps({**figures, "by_step": by_step}, indent=1) + "\n")


if __name__ == "__main__":
    main()
