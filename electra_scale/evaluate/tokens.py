"""Masked-token prediction, and detection of the tokens that a named generator has replaced, on any text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.errors import UserError
from data_pipeline.progress import tracking
from electra_scale.evaluate.networks import Network, open_masked_lm, same_tokens
from electra_scale.evaluate.pairs import network_by
from electra_scale.evaluate.passages import Masking, Passage, describe, make_passages
from electra_scale.evaluate.scores import Evaluation, Score, file_name
from electra_scale.evaluate.sentences import batches, padded, scores_at
from electra_scale.export.named_model import NamedModel
from electra_scale.export.transformers_folder import detection
from electra_scale.tasks.detection import auc

_POSITIONS = 8192
_LOGITS = 1 << 25


@dataclass(frozen=True)
class Predicted:
    """What a masked language model says of a passage's masked positions, (M,) each: the token drawn by the position's
    number, the log-probability of the original token, and whether that is the likeliest."""

    drawn: NDArray[np.int64]
    log_probability: NDArray[np.float64]
    hit: NDArray[np.bool_]


def evaluate_masked_tokens(model: NamedModel, documents: Sequence[str], text: str, masking: Masking) -> Evaluation:
    """Cross-entropy in nats and accuracy at masked positions, each shown as [MASK], of a model's generator.

    Raises UserError if the model has no head over the vocabulary.
    """
    network = open_masked_lm(model.name, model.generator or model.folder)
    passages = make_passages(network, documents, masking)
    predicted = predict(network, passages)
    loss = ratio([-one.log_probability for one in predicted])
    hits = ratio([one.hit.astype(np.float64) for one in predicted])
    count = sum(len(one.hit) for one in predicted)
    scores = [
        Score("masked_cross_entropy", loss[0], loss[1], count),
        Score("masked_accuracy", hits[0], hits[1], count),
    ]
    return Evaluation(model, "masked_tokens", "generator", scores, describe(text, masking))


def evaluate_replaced_tokens(
    model: NamedModel, generator: NamedModel, documents: Sequence[str], text: str, masking: Masking
) -> Evaluation:
    """How well a model's discriminator tells which tokens the named generator has replaced.

    The generator's draws are keyed by passage and position, so that every discriminator is shown the same. Raises
    UserError if the two have other tokenizers, or one has no trained head.
    """
    network = network_by(model, "discriminator")
    source = open_masked_lm(generator.name, generator.generator or generator.folder)
    differ = same_tokens(network, source)
    if differ is not None:
        raise UserError(
            f"{model.name} and the generator {generator.name} have different tokenizers ({differ}), so the one can't "
            "judge the other's tokens; name a generator with the tokenizer of the model"
        )
    passages = make_passages(network, documents, masking)
    if max(len(passage.ids) for passage in passages) > source.longest:
        raise UserError(
            f"{generator.name} reads at most {source.longest} tokens; give --length {source.longest} or less"
        )
    shown = [_replaced(passage, one.drawn) for passage, one in zip(passages, predict(source, passages), strict=True)]
    logits = detect(network, shown)
    labels = [
        np.array([ids[place] != passage.ids[place] for place in passage.own])
        for ids, passage in zip(shown, passages, strict=True)
    ]
    own = [found[passage.own] for found, passage in zip(logits, passages, strict=True)]
    area, error = area_with_error(own, labels)
    losses = [np.logaddexp(0.0, np.where(label, -one, one)) for one, label in zip(own, labels, strict=True)]
    loss, hits = (
        ratio(losses),
        ratio([((one > 0) == label).astype(np.float64) for one, label in zip(own, labels, strict=True)]),
    )
    count = sum(map(len, own))
    replaced = sum(int(label.sum()) for label in labels) / count
    entropy = -sum(share * math.log(share) for share in (replaced, 1 - replaced) if share > 0)
    scores = [
        Score("replaced_auc", area, error, count, 0.5),
        Score("replaced_accuracy", hits[0], hits[1], count, max(replaced, 1 - replaced)),
        Score("replaced_loss", loss[0], loss[1], count, entropy),
    ]
    settings = describe(text, masking) | {"generator": generator.name, "generator_step": generator.step}
    return Evaluation(model, "replaced_tokens", "discriminator", scores, settings, file_name(generator.name))


@torch.no_grad()
def predict(network: Network, passages: Sequence[Passage]) -> list[Predicted]:
    """What a masked language model says of the masked positions; a draw is the token at which the sum of probabilities,
    in the order of the vocabulary, passes the position's number."""
    found: list[Predicted | None] = [None] * len(passages)
    masked = [len(passage.masked) for passage in passages]
    most = max(1, _LOGITS // (network.model.config.vocab_size * max(masked))) * max(len(one.ids) for one in passages)
    with tracking(len(passages), 0, f"{network.name}: masked passages", unit="passage") as advance:
        for chosen in batches([len(passage.ids) for passage in passages], min(_POSITIONS, most)):
            ids, attended = padded(network, [passages[index].ids for index in chosen])
            rows = torch.tensor(np.repeat(np.arange(len(chosen)), [masked[index] for index in chosen]))
            places = torch.tensor(np.concatenate([passages[index].masked for index in chosen]))
            uniform = torch.tensor(np.concatenate([passages[index].uniform for index in chosen]))
            rows, places, uniform = (one.to(network.device) for one in (rows, places, uniform))
            original = ids[rows, places]
            ids[rows, places] = network.tokenizer.mask_token_id
            log_p = scores_at(network, ids, attended, rows, places).double().log_softmax(-1)
            sums = log_p.exp().cumsum(-1)
            drawn = torch.searchsorted(sums, (uniform * sums[:, -1])[:, None], right=True)[:, 0]
            parts = zip(
                *(
                    np.split(one.cpu().numpy(), np.cumsum([masked[index] for index in chosen])[:-1])
                    for one in (
                        drawn.clamp(max=log_p.shape[1] - 1),
                        log_p.gather(1, original[:, None])[:, 0],
                        log_p.argmax(-1) == original,
                    )
                ),
                strict=True,
            )
            for index, part in zip(chosen, parts, strict=True):
                found[index] = Predicted(*part)
                advance()
    return [one for one in found if one is not None]


@torch.no_grad()
def detect(network: Network, rows: Sequence[list[int]]) -> list[NDArray[np.float64]]:
    """The discriminator's logits of each row: positive where a token looks replaced."""
    found: list[NDArray[np.float64]] = [np.zeros(0)] * len(rows)
    with tracking(len(rows), 0, f"{network.name}: replaced tokens", unit="passage") as advance:
        for chosen in batches([len(row) for row in rows], _POSITIONS):
            ids, attended = padded(network, [rows[index] for index in chosen])
            logits = detection(network.model(input_ids=ids, attention_mask=attended)).double().cpu().numpy()
            for row, index in enumerate(chosen):
                found[index] = logits[row, : len(rows[index])]
                advance()
    return found


def ratio(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """The mean of all values, and its standard error, for which the values of a passage are not independent.

    The error is that of a ratio of sums over passages: the root of the summed squares of each passage's deviation.
    """
    total = sum(len(one) for one in values)
    mean = float(sum(one.sum() for one in values)) / total
    return mean, math.sqrt(sum(float((one - mean).sum()) ** 2 for one in values)) / total


def area_with_error(logits: Sequence[NDArray[np.float64]], labels: Sequence[NDArray[np.bool_]]) -> tuple[float, float]:
    """The area under the ROC curve, and its standard error over passages (DeLong et al. 1988, for clusters as
    Obuchowski 1997); NaN where no token is replaced, or none is not."""
    flat, replaced = np.concatenate(list(logits)), np.concatenate(list(labels))
    area = auc(flat[replaced], flat[~replaced])
    if math.isnan(area):
        return area, math.nan
    own = np.empty(len(flat))
    for side, other, sign in ((replaced, ~replaced, 1), (~replaced, replaced, -1)):
        ordered = np.sort(sign * flat[other])
        below, up_to = (np.searchsorted(ordered, sign * flat[side], side=way) for way in ("left", "right"))
        own[side] = ((below + up_to) / 2 / len(ordered) - area) / side.sum()
    parts = np.split(own, np.cumsum([len(one) for one in labels])[:-1])
    return area, math.sqrt(sum(float(part.sum()) ** 2 for part in parts))


def _replaced(passage: Passage, drawn: NDArray[np.int64]) -> list[int]:
    ids = list(passage.ids)
    for place, token in zip(passage.masked.tolist(), drawn.tolist(), strict=True):
        ids[place] = token
    return ids
