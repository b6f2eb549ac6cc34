"""Batches: the same global batch whoever asks for which part of it; a state that fits no other data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.errors import UserError
from electra_scale.data.batch import Batch
from electra_scale.data.loader import Loader, open_loader
from electra_scale.data.split import Split
from electra_scale.data.store import Store, special_tokens
from electra_scale.recipe.data import DataConfig
from electra_scale.recipe.recipe import Recipe

from .conftest import SPECIAL, make_loader, number_split


def per_row(batch: Batch) -> list[dict[str, Any]]:
    """What each row of a batch got, without reference to its place in the batch."""
    width = batch.ids.shape[1]
    rows = []
    for row in range(len(batch.ids)):
        here = batch.masked // width == row
        rows.append(
            {
                "ids": batch.ids[row].tolist(),
                "segment": batch.segment[row].tolist(),
                "masked": (batch.masked[here] % width).tolist(),
                "shown_as_mask": batch.shown_as_mask[here].tolist(),
                "uniform": batch.uniform[here].tolist(),
            }
        )
    return rows


def tokens(batch: Batch) -> list[int]:
    ordinary = ~np.isin(batch.ids.numpy(), SPECIAL.ids())
    return batch.ids.numpy()[ordinary].tolist()


@pytest.mark.parametrize(("ranks", "micro"), [(1, 8), (1, 4), (1, 1), (2, 4), (2, 2), (4, 2), (4, 1), (8, 1)])
def test_the_global_batch_is_the_same_for_any_split_into_ranks_and_micro_batches(ranks: int, micro: int) -> None:
    whole = make_loader(number_split())
    # More than an epoch, so that a batch crosses its end.
    for step in range(whole.samples // 8 + 2):
        expected = per_row(whole.batch(step, 0, 8, 0.15))
        share = 8 // ranks
        found = []
        for rank in range(ranks):
            loader = make_loader(number_split())
            for first in range(rank * share, (rank + 1) * share, micro):
                found += per_row(loader.batch(step, first, micro, 0.15))
        assert found == expected


def test_an_epoch_of_batches_holds_every_token_exactly_once() -> None:
    split = number_split()
    samples = int(split.rows.sum())
    loader = make_loader(split, global_batch=samples)
    assert loader.samples == samples
    for epoch in range(2):
        assert sorted(tokens(loader.batch(epoch, 0, samples, 0.15))) == list(range(10, 10 + split.tokens))


def test_steps_follow_each_other_without_gap() -> None:
    loader, whole = (make_loader(number_split(), global_batch=size, shuffle=False) for size in (8, 40))
    stepwise = [row for step in range(5) for row in per_row(loader.batch(step, 0, 8, 0.15))]
    assert stepwise == per_row(whole.batch(0, 0, 40, 0.15))


def test_a_sample_gets_other_noise_in_another_epoch() -> None:
    split = number_split()
    loader = make_loader(split, global_batch=int(split.rows.sum()), shuffle=False)
    first, second = (per_row(loader.batch(epoch, 0, loader.samples, 0.15)) for epoch in (0, 1))
    assert [row["ids"] for row in first] == [row["ids"] for row in second]
    assert [row["masked"] for row in first] != [row["masked"] for row in second]
    assert not {number for row in first for number in row["uniform"]} & {n for row in second for n in row["uniform"]}


def test_a_batch_is_what_the_model_expects() -> None:
    batch = make_loader(number_split()).batch(0, 0, 8, 0.15)
    assert batch.ids.shape == batch.segment.shape == (8, 16)
    assert batch.ids.dtype == batch.segment.dtype == batch.masked.dtype == torch.int64
    assert batch.shown_as_mask.dtype == torch.bool
    assert batch.uniform.dtype == torch.float64
    assert batch.masked.shape == batch.shown_as_mask.shape == batch.uniform.shape
    assert (batch.masked.diff() > 0).all()
    assert batch.to(torch.device("cpu")) is batch


def test_masking_and_drawing_use_different_numbers() -> None:
    """The masked positions are those with small numbers; the draws at them must not all be small."""
    loader = make_loader(number_split(40), global_batch=200)
    uniform = loader.batch(0, 0, 200, 0.15).uniform
    assert len(uniform) > 300
    assert abs(float(uniform.mean()) - 0.5) < 4 / np.sqrt(12 * len(uniform))


@pytest.mark.parametrize("step", [0, 1, 17])
def test_a_saved_state_is_read_back_as_its_step(step: int) -> None:
    loader = make_loader(number_split())
    state = loader.state(step).to_dict()
    assert state["samples"] == 8 * step
    assert state["epoch"] == 8 * step // loader.samples
    assert make_loader(number_split()).check(state) == step


@pytest.mark.parametrize(
    ("theirs", "ours", "named"),
    [
        (make_loader(number_split(fingerprint="aaa")), make_loader(number_split(fingerprint="bbb")), ("aaa", "bbb")),
        (make_loader(number_split(), seed=3), make_loader(number_split(), seed=44), ("seed is 3", "is 44")),
        (
            make_loader(number_split(), global_batch=8),
            make_loader(number_split(), global_batch=16),
            ("global_batch=8", "global_batch=16"),
        ),
        (make_loader(number_split(streams=3)), make_loader(number_split(streams=2)), ("streams=3", "streams=2")),
        (
            make_loader(number_split(shuffle_window=5)),
            make_loader(number_split(shuffle_window=6)),
            (" window=5", " window=6"),
        ),
        (
            make_loader(number_split(sequence_length=16)),
            make_loader(number_split(sequence_length=24)),
            ("sequence_length=16", "sequence_length=24"),
        ),
        (
            make_loader(number_split(packing="greedy")),
            make_loader(number_split(packing="stream")),
            ("packing=greedy", "packing=stream"),
        ),
        (
            make_loader(number_split(packing_window=5)),
            make_loader(number_split(packing_window=8)),
            ("packing_window=5", "packing_window=8"),
        ),
        (
            make_loader(number_split(), mixture={"main": 1.0}),
            make_loader(number_split()),
            ("mixture=[main:1]", "mixture=[]"),
        ),
        (
            make_loader(number_split(attend_across_documents=False)),
            make_loader(number_split(attend_across_documents=True)),
            ("attend_across_documents=False", "attend_across_documents=True"),
        ),
        (
            make_loader(number_split(mask_token_share=0.85)),
            make_loader(number_split(mask_token_share=0.9)),
            ("mask_token_share=0.85", "mask_token_share=0.9"),
        ),
    ],
    ids=[
        "fingerprint",
        "seed",
        "global_batch",
        "streams",
        "shuffle_window",
        "sequence_length",
        "packing",
        "packing_window",
        "mixture",
        "attend_across_documents",
        "mask_token_share",
    ],
)
def test_a_state_of_other_data_is_refused_naming_both(theirs: Loader, ours: Loader, named: tuple[str, str]) -> None:
    with pytest.raises(UserError) as refusal:
        ours.check(theirs.state(2).to_dict())
    for part in named:
        assert part in str(refusal.value)


def test_other_masks_leave_the_position_as_it_is_where_they_may_change() -> None:
    theirs = make_loader(number_split(), masking="joint:0:mask_share=0.15").state(2).to_dict()
    ours = make_loader(number_split(mask_token_share=0.9), masking="joint:0:mask_share=0.3")
    assert ours.check(theirs, masks_may_change=True) == 2
    with pytest.raises(UserError, match=r"mask_share=0\.15, this run's is .*mask_share=0\.3"):
        ours.check(theirs)
    with pytest.raises(UserError, match="streams=3"):
        make_loader(number_split(streams=4)).check(theirs, masks_may_change=True)


def test_the_settings_in_a_checkpoint_keep_their_text() -> None:
    """Checkpoints of all releases of state version 2 hold this text; with another one their runs could not resume."""
    loader = make_loader(
        number_split(packing="stream", packing_window=7, attend_across_documents=True),
        mixture={"main": 2.5},
        masking="generator_warmup:0:mask_share=0.25 joint:10:mask_share=0.15",
    )
    assert loader.state(5).to_dict() == {
        "fingerprint": "f",
        "settings": "sequence_length=16 global_batch=8 streams=3 window=5 shuffle=True packing=stream packing_window=7 "
        "attend_across_documents=True mixture=[main:2.5] mask_token_share=0.85 "
        "generator_warmup:0:mask_share=0.25 joint:10:mask_share=0.15",
        "seed": 3,
        "epoch": 0,
        "samples": 40,
        "version": 2,
    }


def test_a_recipe_of_two_phases_names_both_mask_shares_in_the_settings(store_path: Any) -> None:
    recipe = Recipe(data=DataConfig(sequence_length=24, streams=4, shuffle_window=8, mixture={"main": 1.0}))
    recipe.batch.global_batch = 12
    recipe.generator_warmup.steps = 10
    recipe.generator_warmup.mask_share = 0.25
    store = Store(store_path)
    loaders = [open_loader(recipe, store, name, special_tokens(store.tokenizer_dir)) for name in ("train", "heldout")]
    masking = "generator_warmup:0:mask_share=0.25 joint:10:mask_share=0.15"
    assert [loader.settings for loader in loaders] == [
        f"sequence_length=24 global_batch=12 streams=4 window=8 shuffle={shuffle} packing=greedy packing_window=1024 "
        f"attend_across_documents=False mixture=[{mixture}] mask_token_share=0.85 {masking}"
        for shuffle, mixture in ((True, "main:1"), (False, ""))
    ]
    assert loaders[0].seed == recipe.seed != loaders[1].seed


def test_a_state_of_another_version_is_refused() -> None:
    loader = make_loader(number_split())
    with pytest.raises(UserError, match=r"version 7.*reads version 2"):
        loader.check(loader.state(2).to_dict() | {"version": 7})


def test_a_real_store_gives_the_documents_tokens(store_path: Any) -> None:
    store = Store(store_path)
    special = special_tokens(store.tokenizer_dir)
    for name in ("train", "heldout"):
        split = Split(store, name, special, DataConfig(sequence_length=24))
        loader = make_loader(split, global_batch=int(split.rows.sum()))
        batch = loader.batch(0, 0, loader.samples, 0.15)
        ordinary = batch.ids.numpy()[~np.isin(batch.ids.numpy(), special.ids())]
        ids, _ = store.documents(name, 10**9)
        np.testing.assert_array_equal(np.sort(ordinary), np.sort(ids))
        assert loader.state(0).fingerprint == store.manifest.fingerprint
