"""Minimal pairs of a folder in BLiMP's format (Warstadt et al. 2020): which of two sentences is the acceptable one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import UserError
from electra_scale.data.pairs import share_preferred
from electra_scale.evaluate.pairs import By, network_by, sentence_scores
from electra_scale.evaluate.rows import SUFFIXES, files_of, read_rows, text_in
from electra_scale.evaluate.scores import Evaluation, Score
from electra_scale.export.named_model import NamedModel


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences, and the paradigm (BLiMP's UID) and field that they belong to."""

    good: str
    bad: str
    paradigm: str
    field: str


def read_minimal_pairs(folder: Path) -> list[MinimalPair]:
    """The pairs of all files of a folder; a row without ``UID`` has its file's name for it, one without ``field`` none.

    Raises UserError for what is not in the format.
    """
    found = []
    for path in files_of(folder):
        name = next(path.name.removesuffix(suffix) for suffix in SUFFIXES[::-1] if path.name.endswith(suffix))
        for number, row in enumerate(read_rows(path), 1):
            good, bad = text_in(row, ("sentence_good", "sentence_bad"), f"row {number} of {path}")
            found.append(MinimalPair(good, bad, str(row.get("UID") or name), str(row.get("field") or "")))
    return found


def evaluate_minimal_pairs(model: NamedModel, by: By, pairs: Sequence[MinimalPair], folder: Path) -> Evaluation:
    """The share of pairs whose good sentence scores higher: over all, by field and by paradigm.

    Raises UserError if the model has no such network, or can read none of the pairs.
    """
    network = network_by(model, by)
    scores = sentence_scores(network, by, [text for pair in pairs for text in (pair.good, pair.bad)])
    read = [pair for pair in pairs if {pair.good, pair.bad} <= scores.keys()]
    if not read:
        raise UserError(f"{model.name} reads at most {network.longest} tokens, and every pair is longer")
    groups = {"minimal_pairs": read}
    for field in sorted({pair.field for pair in read} - {""}):
        groups[f"field {field}"] = [pair for pair in read if pair.field == field]
    for paradigm in sorted({pair.paradigm for pair in read}):
        groups[paradigm] = [pair for pair in read if pair.paradigm == paradigm]
    found = []
    for name, own in groups.items():
        share = share_preferred([scores[pair.good] for pair in own], [scores[pair.bad] for pair in own])
        found.append(Score(name, share.value, share.error, share.count, 0.5))
    variant = "" if by == "discriminator" else by
    return Evaluation(model, "minimal_pairs", by, found, {"folder": str(folder)}, variant)
