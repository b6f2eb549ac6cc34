"""The run folder: what a run began with, and no two runs in one place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_pipeline.errors import UserError
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.recipe.recipe import Recipe
from electra_scale.recipe.resuming import Change, Settings
from electra_scale.train.checkpoint.run_folder import MEASURES, RunFolder


def store(path: Path, tokenizer: str = "aaa") -> Any:
    """A store, as far as a run folder looks at it."""
    folder = path / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(f"tokenizer {tokenizer}")
    shards = [
        SimpleNamespace(source=source, split=split, rows=3, tokens=30)
        for source, split in (("news", "train"), ("letters", "train"), ("news", "heldout"), ("news", "train"))
    ]
    manifest = SimpleNamespace(
        fingerprint="manifest",
        tokenizer=SimpleNamespace(fingerprint=tokenizer, vocab_size=99),
        shards=shards,
        settings={"clean": {"language": "en"}},
    )
    return SimpleNamespace(url=str(path), tokenizer_dir=folder, manifest=manifest)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.mark.parametrize("begun", ["metrics.jsonl", "checkpoints/step-00000002/run_state.json", "checkpoints/latest"])
def test_a_folder_with_a_run_is_not_overwritten(folder: RunFolder, begun: str) -> None:
    folder.path.mkdir()
    folder.refuse_to_overwrite()
    (folder.path / begun).parent.mkdir(parents=True, exist_ok=True)
    (folder.path / begun).write_text("{}")
    assert folder.holds_a_run()
    with pytest.raises(UserError, match=rf"{folder.path} already holds a run.*--resume auto.*--run"):
        folder.refuse_to_overwrite()


def test_what_a_start_that_failed_leaves_is_not_a_run(folder: RunFolder, tmp_path: Path) -> None:
    """The corrected command may have another store, whose tokenizer is then the run's."""
    folder.describe(Recipe(), {}, store(tmp_path / "one", "aaa"))
    folder.metrics.touch()
    folder.checkpoints.mkdir()
    for name in ("status.json", "log.txt"):
        (folder.path / name).write_text("{}")
    folder.refuse_to_overwrite()
    folder.describe(Recipe(seed=1), {}, store(tmp_path / "two", "bbb"))
    assert (folder.tokenizer / "tokenizer.json").read_text() == "tokenizer bbb"
    folder.check_tokenizer(store(tmp_path / "two", "bbb"))


def test_a_tokenizer_that_is_not_of_a_run_is_neither_used_nor_removed(folder: RunFolder, tmp_path: Path) -> None:
    """Such as that of a store that a run folder was named after."""
    ours = store(folder.path, "aaa")
    folder.describe(Recipe(), {}, ours)
    folder.data.unlink()
    with pytest.raises(
        UserError, match=rf"{folder.tokenizer} is not of a run, .* choose another folder with --run_dir"
    ):
        folder.describe(Recipe(), {}, store(tmp_path / "two", "bbb"))
    assert (folder.tokenizer / "tokenizer.json").read_text() == "tokenizer aaa"


def test_the_settings_of_the_last_start_are_read_back(folder: RunFolder, tmp_path: Path) -> None:
    assert folder.settings() is None
    folder.describe(Recipe(seed=7), {"zero_optimization": {"stage": 2}}, store(tmp_path / "store"))
    assert folder.settings() == Settings(Recipe(seed=7), {"zero_optimization": {"stage": 2}})
    folder.deepspeed.write_text("{")
    with pytest.raises(UserError, match=r"cannot resume .*deepspeed\.json is not valid JSON.*restore that file"):
        folder.settings()
    folder.deepspeed.unlink()
    # As an earlier release wrote it.
    folder.recipe.write_text("objective: {sampler: electra}\nseed: 7\n")
    found = folder.settings()
    assert found is not None
    assert (found.recipe.corruption.sampler, found.deepspeed) == ("electra", None)


def test_what_changed_at_a_resume_is_listed(folder: RunFolder, tmp_path: Path) -> None:
    change = Change("optimizer.clip", 1.0, 0.5, "applied", "")
    for step in (8, 12):
        folder.describe(Recipe(), {}, store(tmp_path / "store"), [change], step)
    rows = [json.loads(line) for line in folder.changes.read_text().splitlines()]
    assert rows == [{"step": step, "setting": "optimizer.clip", "from": 1.0, "to": 0.5} for step in (8, 12)]


def test_a_new_or_foreign_folder_holds_no_run(folder: RunFolder) -> None:
    folder.refuse_to_overwrite()
    folder.path.mkdir()
    (folder.path / "notes.txt").write_text("mine")
    assert not folder.holds_a_run()


def test_a_run_can_be_described_in_full(folder: RunFolder, tmp_path: Path) -> None:
    recipe = Recipe(seed=7)
    recipe.corruption.focal_gamma = 2.0
    deepspeed = {"zero_optimization": {"stage": 2}}
    folder.describe(recipe, deepspeed, store(tmp_path / "store"))
    assert recipe_of_run(folder.recipe) == recipe
    assert json.loads((folder.path / "deepspeed.json").read_text()) == deepspeed
    versions = json.loads((folder.path / "versions.json").read_text())
    assert {"electra-scale", "torch", "deepspeed"} <= set(versions)
    data = json.loads(folder.data.read_text())
    assert {name: value for name, value in data.items() if name != "contents"} == {
        "store": str(tmp_path / "store"),
        "manifest": "manifest",
        "tokenizer": "aaa",
        "measures": MEASURES,
    }
    assert (folder.tokenizer / "tokenizer.json").read_text() == "tokenizer aaa"
    # Describing is not beginning: training that fails before its first step can be started again.
    assert not folder.holds_a_run()


def test_a_run_of_an_earlier_release_is_known_by_what_it_wrote(folder: RunFolder, tmp_path: Path) -> None:
    assert folder.measures() == MEASURES
    folder.path.mkdir()
    folder.data.write_text('{"store": "s", "manifest": "manifest", "tokenizer": "aaa"}')
    assert folder.measures() == 1
    folder.describe(Recipe(), {}, store(tmp_path / "store"))
    assert folder.measures() == MEASURES


def test_what_killed_writers_left_is_removed(folder: RunFolder, tmp_path: Path) -> None:
    folder.checkpoints.mkdir(parents=True)
    left = [folder.path / ".status.json.17.tmp", folder.checkpoints / ".latest.17.tmp"]
    for path in left:
        path.write_text("{")
    folder.describe(Recipe(), {}, store(tmp_path / "store"))
    assert not any(path.exists() for path in left)


def test_a_copy_of_the_tokenizer_that_was_cut_short_is_made_again(folder: RunFolder, tmp_path: Path) -> None:
    (folder.path / ".tokenizer.partial").mkdir(parents=True)
    (folder.path / ".tokenizer.partial" / "tokenizer.json").write_text("tok")
    for _ in range(2):
        folder.describe(Recipe(), {}, store(tmp_path / "store"))
        assert [path.name for path in folder.tokenizer.iterdir()] == ["tokenizer.json"]
        assert (folder.tokenizer / "tokenizer.json").read_text() == "tokenizer aaa"
    assert not (folder.path / ".tokenizer.partial").exists()


def test_another_tokenizer_is_refused_naming_both(folder: RunFolder, tmp_path: Path) -> None:
    folder.check_tokenizer(store(tmp_path / "one", "aaa"))
    folder.describe(Recipe(), {}, store(tmp_path / "one", "aaa"))
    folder.check_tokenizer(store(tmp_path / "copy", "aaa"))
    with pytest.raises(UserError) as refusal:
        folder.check_tokenizer(store(tmp_path / "other", "bbb"))
    for named in ("aaa", "bbb", str(folder.path), str(tmp_path / "other")):
        assert named in str(refusal.value)


def test_a_damaged_data_file_is_named(folder: RunFolder, tmp_path: Path) -> None:
    folder.path.mkdir(parents=True)
    folder.data.write_text('{"tokenizer"')
    with pytest.raises(UserError, match=r"data\.json cannot be read .*start a new run"):
        folder.check_tokenizer(store(tmp_path / "one"))


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = RunFolder(tmp_path / "file/run")
    with pytest.raises(UserError, match=rf"cannot write run folder {folder.path} \(.*\); look at the space"):
        folder.describe(recipe_of_run(Path("recipes/tiny.yaml")), {}, store(tmp_path))
    folder.append_to_log("a line for people")


def test_a_line_that_the_disk_does_not_take_is_no_error(folder: RunFolder) -> None:
    folder.path.mkdir()
    (folder.path / "log.txt").mkdir()
    folder.append_to_log("why the run ends")


def test_another_tokenizer_than_that_of_the_checkpoint_is_refused_with_both(folder: RunFolder) -> None:
    right = hashlib.sha256(b"tokens").hexdigest()
    with pytest.raises(UserError, match=rf"tokenizer.json is missing .* trained with {right}"):
        folder.refuse_other_tokenizer(right)
    folder.tokenizer.mkdir(parents=True)
    (folder.tokenizer / "tokenizer.json").write_bytes(b"tokens")
    folder.refuse_other_tokenizer(right)
    (folder.tokenizer / "tokenizer.json").write_bytes(b"token5")
    with pytest.raises(UserError, match=f"{hashlib.sha256(b'token5').hexdigest()}, but .* {right}"):
        folder.refuse_other_tokenizer(right)


def test_what_the_store_holds_and_the_hardware_of_each_start_are_there(folder: RunFolder, tmp_path: Path) -> None:
    data = store(tmp_path / "store")
    cpus, more = ({"device": "a processor, 2 cores", "ranks": ranks, "hosts": 1} for ranks in (2, 4))
    for step, hardware in ((0, cpus), (10, cpus), (20, more), (30, more)):
        folder.describe(Recipe(), {}, data, step=step, hardware=hardware)
    starts = json.loads(folder.hardware.read_text())["starts"]
    assert starts == [{"step": 0, **cpus}, {"step": 20, **more}]
    assert json.loads(folder.data.read_text())["contents"] == {
        "sources": {"news": {"train": [6, 60], "heldout": [3, 30]}, "letters": {"train": [3, 30], "heldout": [0, 0]}},
        "vocabulary": 99,
        "language": "en",
    }
    folder.hardware.write_text("{")
    folder.describe(Recipe(), {}, data, step=40, hardware=more)
    assert json.loads(folder.hardware.read_text())["starts"] == [{"step": 40, **more}]
