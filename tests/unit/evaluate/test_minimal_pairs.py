"""Minimal pairs in BLiMP's format: by paradigm, by field and over all, or a line about the file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.errors import UserError
from electra_scale.evaluate.minimal_pairs import evaluate_minimal_pairs, read_minimal_pairs
from electra_scale.evaluate.networks import open_discriminator, open_masked_lm
from electra_scale.evaluate.pairs import By
from electra_scale.evaluate.sentences import discriminator_scores, encode, pseudo_log_likelihoods
from electra_scale.export.named_model import NamedModel

ROWS = {
    "agreement": [("the man walks.", "the man walk."), ("they see it.", "they sees it."), ("it is it.", "it is it.")],
    "order": [("a man sees the boat.", "a man the boat sees.")],
}


def blimp(folder: Path) -> Path:
    for name, pairs in ROWS.items():
        lines = [
            json.dumps({"sentence_good": good, "sentence_bad": bad, "UID": name, "field": f"of {name}", "pairID": "0"})
            for good, bad in pairs
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("by", ["discriminator", "generator"])
def test_shares_are_counted_by_paradigm_by_field_and_over_all(
    electra_model: NamedModel, tmp_path: Path, by: By
) -> None:
    found = evaluate_minimal_pairs(electra_model, by, read_minimal_pairs(blimp(tmp_path)), tmp_path)
    if by == "discriminator":
        network = open_discriminator("m", electra_model.folder)
        score: Any = discriminator_scores
    else:
        assert electra_model.generator is not None
        network = open_masked_lm("m", electra_model.generator)
        score = pseudo_log_likelihoods
    points: dict[str, list[float]] = {}
    for name, pairs in ROWS.items():
        for good, bad in pairs:
            one, other = score(network, encode(network, [good, bad]))
            for group in ("minimal_pairs", f"field of {name}", name):
                points.setdefault(group, []).append((one > other) + 0.5 * (one == other))
    assert {score.name: (score.value, score.count, score.chance) for score in found.scores} == {
        name: (sum(own) / len(own), len(own), 0.5) for name, own in points.items()
    }
    assert found.by == by


def test_compressed_files_and_rows_without_field_are_read(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl.gz").write_bytes(gzip.compress(b'{"sentence_good": "a.", "sentence_bad": "b."}\n\n'))
    (pair,) = read_minimal_pairs(tmp_path)
    assert (pair.paradigm, pair.field) == ("one", "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "holds no file that ends in .jsonl"),
        (b"", "has no row"),
        (b"{\n", ", line 1 is not JSON"),
        (b"[1]\n", ", line 1 is not an object"),
        (b'{"sentence_good": "a."}\n', "has no column 'sentence_bad'"),
        (b'{"sentence_good": "a.", "sentence_bad": 3}\n', "has '3' in column 'sentence_bad'"),
        (b'{"sentence_good": "a.", "sentence_bad": " "}\n', "where a text is expected"),
        (b"\xff\xfe", "is not text in UTF-8"),
    ],
)
def test_what_is_not_in_the_format_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "pairs.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_minimal_pairs(tmp_path)
    (tmp_path / "pairs.jsonl.gz").write_bytes(gzip.compress(content or b"x")[:-9])
    (tmp_path / "pairs.jsonl").unlink(missing_ok=True)
    with pytest.raises(UserError, match="is not a whole gzip file"):
        read_minimal_pairs(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_minimal_pairs(tmp_path / "elsewhere")
