"""Pairs without labels: how often a network prefers a held-out sentence to its copy that is wrong in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from data_pipeline.errors import UserError
from data_pipeline.progress import counted, log
from electra_scale.data.heldout_text import heldout_documents, training_documents
from electra_scale.data.pairs import KINDS, LEAST_WORDS, MOST_WORDS, Pair, make_pairs, share_preferred
from electra_scale.data.store import Store
from electra_scale.evaluate.networks import Network, open_discriminator, open_masked_lm
from electra_scale.evaluate.scores import Evaluation, Score
from electra_scale.evaluate.sentences import discriminator_scores, encode, pseudo_log_likelihoods
from electra_scale.export.named_model import NamedModel
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder

By = Literal["discriminator", "generator"]


def pairs_of(store: Store, most: int, seed: int) -> list[Pair]:
    """Pairs from the held-out text of a store, at most ``most`` of a kind.

    Raises UserError if the store has no held-out text, or there are no sentences in it.
    """
    if not store.manifest.split("heldout"):
        raise UserError(
            f"store {store.url} has no held-out text, from which pairs are made; build it with held_out above 0, or "
            "name another store with --store"
        )
    pairs = make_pairs(heldout_documents(store, seed=seed), seed, most, training_documents(store, seed))
    if not pairs:
        raise UserError(
            f"the held-out text of store {store.url} has no sentence of {LEAST_WORDS} to {MOST_WORDS} words with white "
            "space between them and a full stop, of which pairs could be made; name another store with --store"
        )
    return pairs


def evaluate_pairs(model: NamedModel, by: By, pairs: Sequence[Pair], store: str, seed: int) -> Evaluation:
    """The share of each kind of pairs in which the true sentence scores higher, by one of a model's networks.

    Raises UserError if the model has no such network, or can read none of the pairs.
    """
    network = network_by(model, by)
    scores = sentence_scores(network, by, [text for pair in pairs for text in (pair.original, pair.changed)])
    found = []
    for kind in KINDS:
        own = [pair for pair in pairs if pair.kind == kind]
        read = [
            (scores[pair.original], scores[pair.changed])
            for pair in own
            if {pair.original, pair.changed} <= scores.keys()
        ]
        if own and not read:
            raise UserError(
                f"{model.name} reads at most {network.longest} tokens, and every pair is longer; name another model"
            )
        share = share_preferred([one for one, _ in read], [other for _, other in read])
        found.append(Score(f"pairs_{kind}", share.value, share.error, share.count, 0.5))
    settings = {"store": store, "seed": seed, "words": [LEAST_WORDS, MOST_WORDS]}
    return Evaluation(model, "pairs", by, found, settings, variant="" if by == "discriminator" else by)


def network_by(model: NamedModel, by: By) -> Network:
    """The network of a model that scores sentences. Raises UserError if the model has no trained one."""
    if by == "generator":
        return open_masked_lm(model.name, model.generator or model.folder)
    if model.phase == "mlm":
        raise UserError(
            f"{model.name} is a masked language model (task.kind mlm), which has no discriminator; evaluate its "
            "generator (--pairs-by generator)"
        )
    if model.phase == "generator_warmup":
        raise UserError(
            f"{model.name} is at step {model.step}, in the generator's warm-up, where no discriminator is trained; "
            f"evaluate its generator, or {_later(model)}"
        )
    return open_discriminator(model.name, model.folder)


def _later(model: NamedModel) -> str:
    """Which checkpoint of a run has a trained discriminator, or from when on one will have."""
    assert model.run is not None
    folder = RunFolder(model.run)
    tags = reversed(checkpoint.complete_tags(folder.checkpoints))
    states = (checkpoint.read_state(folder.checkpoints, tag) for tag in tags)
    newest = next((state.step for state in states if state.phase == "joint"), None)
    if newest is not None:
        return f"name a later one with --step, such as {newest}"
    recipe = recipe_of_run(folder.recipe)
    if recipe.schedule.steps == 0:
        return "train the run on, with schedule.steps above 0"
    return f"wait for a checkpoint of after step {recipe.generator_warmup.steps}, where its joint phase begins"


def sentence_scores(network: Network, by: By, texts: Sequence[str]) -> dict[str, float]:
    """The score of each text, the higher the likelier; a line tells of those that are too long, which have none."""
    different = list(dict.fromkeys(texts))
    encoded = {text: one for text, one in zip(different, encode(network, different), strict=True) if one is not None}
    if len(encoded) < len(different):
        example = next(text for text in different if text not in encoded)
        log(
            f"{network.name}: {counted(len(different) - len(encoded), 'sentence')} of {len(different):,} left out, "
            f"each with its pair: empty, or longer than the {network.longest} tokens that the model reads, such as "
            f"{example[:60]!r}"
        )
    score = discriminator_scores if by == "discriminator" else pseudo_log_likelihoods
    return dict(zip(encoded, score(network, list(encoded.values())), strict=True))
