"""A run's checkpoint is looked into, and rows of its store with the masks that measuring has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.build.build import build_store
from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from electra_scale.data.loader import open_loader
from electra_scale.data.store import Store, special_tokens
from electra_scale.inside.examples import examples
from electra_scale.inside.opening import open_run
from electra_scale.inside.run import open_checkpoint
from electra_scale.train.lifecycle.status import read_status
from tests.support.fixtures.runs import plain, run
from tests.unit.data_pipeline.conftest import make_config, make_texts

pytestmark = pytest.mark.slow


def test_rows_are_held_out_ones_with_the_masks_of_measuring_and_the_seed_chooses_them(
    finished_run: Path, store: Path
) -> None:
    inside, opened = open_run(finished_run), Store(store)
    run = open_checkpoint(finished_run)
    loader = open_loader(run.recipe, opened, "heldout", special_tokens(opened.tokenizer_dir), training=False)
    batch = loader.rows(np.arange(loader.samples), run.recipe.data.mask_share)
    real = zip(batch.ids, batch.segment >= 0, strict=True)
    by_row = {tuple(ids[kept].tolist()): row for row, (ids, kept) in enumerate(real)}
    found = examples(inside, opened, 5, seed=1)
    rows = [by_row[tuple(token.id for token in looked.tokens)] for looked in found]
    assert len(set(rows)) == 5
    for row, looked in zip(rows, found, strict=True):
        masked = batch.masked[batch.masked // 32 == row] % 32
        assert [position.index for position in looked.positions] == masked.tolist()
        assert [index for index, token in enumerate(looked.tokens) if token.masked] == masked.tolist()
    assert examples(inside, opened, 5, seed=1) == found
    assert examples(inside, opened, 5, seed=2) != found


def test_a_step_can_be_chosen_and_what_is_missing_is_named(finished_run: Path, tmp_path: Path) -> None:
    first, last = open_run(finished_run, 2), open_run(finished_run)
    assert (first.about.step, last.about.step) == (2, 4)
    assert first.look("the value of").tokens != last.look("the value of").tokens
    with pytest.raises(UserError, match="has no checkpoint step-00000003; it has step-00000002, step-00000004"):
        open_run(finished_run, 3)
    with pytest.raises(UserError):
        open_run(tmp_path / "none")


def test_a_store_of_another_tokenizer_is_refused(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n\n".join(make_texts(50)))
    source = SourceConfig(kind="text", paths=[str(tmp_path / "texts.txt")])
    build_store(make_config(tmp_path / "store", source))
    with pytest.raises(UserError, match="name the store of the run"):
        examples(open_run(finished_run), Store(tmp_path / "store"), 1)


def test_a_run_may_end_with_the_warmup_and_its_checkpoint_shows_p_and_scores_nothing(
    recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    changes = {"generator_warmup.steps": 2, "schedule.steps": 0}
    result = run(plain("--config", recipe_file(**changes), "--run_dir", tmp_path / "run"), tmp_path)
    assert result.returncode == 0, result.stderr
    assert "schedule.steps is 0: the run ends with the generator's warm-up" in result.stdout
    found = read_status(tmp_path / "run")
    assert (found.state, found.step, found.total_steps) == ("finished", 2, 2)
    inside = open_run(tmp_path / "run")
    assert (inside.about.generates, inside.about.detects) == (True, False)
    assert "warm-up" in inside.about.notes[0]
    looked = inside.look("the value of", [1])
    assert all(one.hardness == pytest.approx(1) for one in looked.positions[0].candidates)
    assert all(token.score is None for token in looked.tokens)
