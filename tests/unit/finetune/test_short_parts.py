"""A step in parts, or in micro-batches of any size, has the gradient of the mean over its whole batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from electra_scale.finetune.encoder import build_model
from electra_scale.finetune.short_parts import parts, terms
from electra_scale.finetune.tasks.known import TASKS
from tests.support.fixtures.small_encoders import WORDS, write_encoder, write_rows

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=9)


def batch_of(lengths: list[int], task: str = "cola", left: bool = False) -> dict[str, torch.Tensor]:
    """Rows of other ids each, padded to the longest, with labels of the task's kind."""
    draw = torch.Generator().manual_seed(len(lengths))
    width = max(lengths)
    place = torch.arange(width)
    mask = torch.stack([place >= width - n if left else place < n for n in lengths]).long()
    ids = torch.randint(5, 40, mask.shape, generator=draw) * mask
    found = {"input_ids": ids, "attention_mask": mask, "token_type_ids": mask * (place % 2)}
    if task == "conll2000":
        tags = torch.randint(0, 3, mask.shape, generator=draw)
        return {**found, "labels": tags.masked_fill((mask == 0) | (tags == 2), -100)}
    if task == "stsb":
        return {**found, "labels": torch.rand(len(lengths), generator=draw)}
    return {**found, "labels": torch.randint(0, 2, (len(lengths),), generator=draw)}


@given(lengths, st.integers(1, 9), st.booleans())
def test_parts_have_every_row_once_and_only_padding_is_cut(lengths: list[int], rows: int, left: bool) -> None:
    batch = batch_of(lengths, "conll2000", left)
    found = parts(batch, rows)
    assert [len(part["input_ids"]) for part in found[:-1]] == [rows] * (len(found) - 1)
    assert sum(terms(part) for part in found) == terms(batch)
    for name in batch:
        assert read_values(found, name) == read_values([batch], name)
    if not left:
        assert all(int(part["attention_mask"].sum(1).max()) == part["input_ids"].shape[1] for part in found)


def read_values(batches: list[dict[str, torch.Tensor]], name: str) -> list[list[int]]:
    """What stands in each row where the model reads it, in any order of the rows."""
    rows = [row for batch in batches for row in zip(batch[name], batch["attention_mask"], strict=True)]
    return sorted(values[mask != 0].tolist() for values, mask in rows)


@pytest.mark.parametrize("kind", ["electra", "bert", "modernbert"])
@pytest.mark.parametrize("task", ["cola", "stsb", "conll2000"])
def test_the_parts_gradients_by_their_terms_are_that_of_the_whole_batch(tmp_path: Path, kind: str, task: str) -> None:
    model = build_model(write_encoder(tmp_path / "e", kind), "e", TASKS[task], None, 0).eval()
    weights = list(model.parameters())
    for left in (False, True):
        batch = batch_of([3, 11, 1, 7, 7, 2, 9], task, left)
        if kind == "modernbert":
            del batch["token_type_ids"]
        whole = torch.autograd.grad(model(**batch).loss, weights)
        found = [torch.zeros_like(weight) for weight in weights]
        for part in parts(batch, 3):
            share = terms(part) / terms(batch)
            for total, gradient in zip(found, torch.autograd.grad(model(**part).loss, weights), strict=True):
                total += share * gradient
        for one, other in zip(whole, found, strict=True):
            assert (one - other).abs().max() < 1e-5


@pytest.mark.parametrize("task", ["cola", "conll2000"])
def test_micro_batches_of_any_size_end_with_the_same_weights(
    encoder: Path, finetune: Callable[..., Any], tmp_path: Path, task: str
) -> None:
    """30 rows of 1 to 9 words in batches of 12: the last one, of 6, is no multiple of a micro-batch."""
    draw = random.Random(0)
    rows = [[draw.choice(WORDS) for _ in range(draw.randint(1, 9))] for _ in range(30)]
    if task == "cola":
        made = [{"sentence": " ".join(words), "label": len(words) % 2} for words in rows]
    else:
        made = [{"tokens": words, "tags": ["B-NP" if word in WORDS[:5] else "O" for word in words]} for words in rows]
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / "data" / task / f"{split}.jsonl", made)
    options = ["--model", encoder, "--task", task, "--data", tmp_path / "data", "--batch", "12", "--dropout", "0"]
    for most in ("12", "4", "1"):
        finetune(*options, "--most-per-device", most, "--rate", "0.003", "--epochs", "3", out=most)
    weights = [load_file(tmp_path / most / "best" / "model.safetensors") for most in ("12", "4", "1")]
    for other in weights[1:]:
        for name, value in other.items():
            assert (value - weights[0][name]).abs().max() < 2e-5, name


def test_a_part_or_a_batch_without_a_tagged_word_teaches_nothing_and_spoils_nothing(
    encoder: Path, finetune: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Words of which the tokenizer leaves no piece have no place for a tag: 24 of 33 rows, and the last batch's one."""
    tagged = [{"tokens": ["the", "film"], "tags": ["B-NP", "I-NP"]}] * 9
    rows = [*tagged, *[{"tokens": ["\u200b"], "tags": ["O"]}] * 24]
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / "data" / "conll2000" / f"{split}.jsonl", rows)
    finetune("--model", encoder, "--task", "conll2000", "--data", tmp_path / "data", "--batch", "1", out="one")
    finetune("--model", encoder, "--task", "conll2000", "--data", tmp_path / "data", "--batch", "32", out="many")
    assert "24 rows of 33" in capsys.readouterr().err
    for out in ("one", "many"):
        weights = load_file(tmp_path / out / "best" / "model.safetensors")
        assert all(bool(value.isfinite().all()) for value in weights.values()), out


def test_a_batch_without_a_mask_of_attention_is_taken_whole(tmp_path: Path) -> None:
    batch = batch_of([3, 1, 2])
    del batch["attention_mask"]
    (found,) = parts(batch, 1)
    assert found is not batch
    assert found.keys() == batch.keys()
    assert all(torch.equal(found[name], batch[name]) for name in batch)


def test_rows_without_a_single_piece_keep_one_position() -> None:
    batch = batch_of([2, 1])
    batch["attention_mask"][1] = 0
    assert [part["input_ids"].shape for part in parts(batch, 1)] == [(1, 2), (1, 1)]
