"""Ranks that have other data, settings or programs are found before the first step, and all ranks say so alike."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.store.manifest import FileEntry, Manifest, TokenizerEntry, manifest_fingerprint, write_manifest
from electra_scale import pretrain
from electra_scale.recipe.parse import parse_recipe, pretrain_parser
from electra_scale.recipe.recipe import Recipe
from electra_scale.train.lifecycle.agreement import disagreement, facts_of, open_inputs
from tests.support.fixtures.runs import ROOT

T = TypeVar("T")


@dataclass
class Together:
    """What the threads of a test share."""

    barrier: threading.Barrier
    values: dict[int, Any] = field(default_factory=dict)


@dataclass
class ThreadRank:
    """A rank that is a thread."""

    rank: int
    size: int
    shared: Together
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def gather(self, value: T) -> list[T]:
        self.shared.values[self.rank] = value
        self.shared.barrier.wait(60)
        found = [self.shared.values[rank] for rank in range(self.size)]
        self.shared.barrier.wait(60)
        return found


def on_ranks(*starts: Callable[[Any], Any]) -> list[str]:
    """What each rank came to: its error, or an empty text."""
    shared = Together(threading.Barrier(len(starts)))
    outcomes = [""] * len(starts)

    def work(number: int) -> None:
        try:
            starts[number](ThreadRank(number, len(starts), shared))
        except UserError as error:
            outcomes[number] = str(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(len(starts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def write_store(folder: Path, **settings: Any) -> None:
    """As much of a store as its manifest."""
    folder.mkdir()
    tokenizer = TokenizerEntry("a" * 64, 100, {"tokenizer/vocab.txt": "b" * 64})
    fingerprint = manifest_fingerprint(tokenizer.fingerprint, settings, [])
    counts = FileEntry("token_counts.npy", "c" * 64)
    write_manifest(open_place(folder), Manifest(2, fingerprint, tokenizer, [], {}, settings, counts))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    write_store(tmp_path / "store")
    return of(f"--data.store={tmp_path / 'store'}", "--deepspeed=zero2")


def of(*arguments: str) -> Recipe:
    return parse_recipe(pretrain_parser(), ["--config", str(ROOT / "recipes/tiny.yaml"), *arguments])[0]


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    found = copy.deepcopy(recipe)
    for name, value in changes.items():
        holder = found
        *parents, leaf = name.split("__")
        for parent in parents:
            holder = getattr(holder, parent)
        setattr(holder, leaf, value)
    return found


def opening(recipe: Recipe, **options: object) -> Callable[[Any], Any]:
    return lambda rank: open_inputs(recipe, rank, **({"resume": True} | options))


def test_equal_stores_at_other_places_are_accepted(recipe: Recipe, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    other = changed(recipe, data__store=str(tmp_path / "copy"), data__cache__limit_gb=7.0)
    assert on_ranks(opening(recipe), opening(other), opening(recipe)) == ["", "", ""]


def test_another_store_is_refused_on_all_ranks_naming_the_odd_one(recipe: Recipe, tmp_path: Path) -> None:
    write_store(tmp_path / "other", task_bytes=7)
    other = changed(recipe, data__store=str(tmp_path / "other"))
    found = on_ranks(opening(recipe), opening(recipe), opening(other))
    assert len(set(found)) == 1
    assert "the ranks do not agree: store is manifest " in found[0]
    assert " on rank 2 (" in found[0]
    assert " on rank 0 (" in found[0]
    assert ") and 1 more;" in found[0]


def test_where_the_main_rank_is_the_odd_one_it_is_named(recipe: Recipe) -> None:
    other = changed(recipe, seed=5)
    found = on_ranks(opening(other), opening(recipe), opening(recipe))
    assert len(set(found)) == 1
    assert "recipe's seed is 5 on rank 0 (" in found[0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer__learning_rate": 0.125}, "recipe's optimizer.learning_rate is 0.125 on rank 1"),
        ({"run_dir": "elsewhere"}, 'recipe\'s run_dir is "elsewhere" on rank 1'),
        ({"data__mixture": {"web": 1.0}}, "recipe's data.mixture.web is 1.0 on rank 1"),
        ({"deepspeed": "zero2_bf16"}, "DeepSpeed JSON's bf16.enabled is true on rank 1"),
        ({"deepspeed": "nowhere.json"}, "DeepSpeed JSON is unreadable on rank 1"),
        ({"data__store": "/nowhere"}, "no store at /nowhere"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_settings_are_named_with_both_values(recipe: Recipe, changes: dict[str, Any], named: str) -> None:
    found = on_ranks(opening(recipe), opening(changed(recipe, **changes)))
    assert len(set(found)) == 1
    assert named in found[0]
    assert "on rank 0" in found[0]


def test_options_that_decide_what_ranks_do_together_are_compared(recipe: Recipe) -> None:
    found = on_ranks(opening(recipe), opening(recipe, resume=False))
    assert len(set(found)) == 1
    assert "resume is false on rank 1" in found[0]


def test_what_no_rank_can_read_is_the_error_itself(recipe: Recipe) -> None:
    other = changed(recipe, data__store="/nowhere")
    found = on_ranks(opening(other), opening(other))
    assert len(set(found)) == 1
    assert found[0].startswith("no store at /nowhere: the folder does not exist")


def test_other_versions_and_other_source_are_named(recipe: Recipe) -> None:
    usual = facts_of(recipe, {}, None)
    old = usual | {"version of torch": "1.0", "source of electra-scale": "0123456789"}
    found = disagreement([usual, usual, old], [{}, {}, {}], ["a", "b", "c"])
    assert f"version of torch is 1.0 on rank 2 (c), but {usual['version of torch']} on rank 0 (a) and 1 more" in found
    assert "source of electra-scale is 0123456789 on rank 2 (c)" in found


def test_a_checkout_with_one_other_line_has_another_hash(tmp_path: Path) -> None:
    program = "from electra_scale.cluster.software import source_hash; print(source_hash())"

    def hash_in(folder: Path) -> str:
        # Without the user's own paths, so that the copy is what is imported.
        result = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
        return result.stdout

    for package in ("data_pipeline", "electra_scale"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert hash_in(tmp_path) == hash_in(ROOT)
    with (tmp_path / "data_pipeline/errors.py").open("a") as file:
        file.write("# one more line\n")
    assert hash_in(tmp_path) != hash_in(ROOT)


@pytest.mark.parametrize(("rank", "local", "reported"), [("0", "0", ""), ("1", "1", None), ("8", "0", "rank 8: ")])
def test_before_ranks_meet_each_host_reports_its_own_error(
    rank: str, local: str, reported: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe may be missing on one host alone."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", local)
    assert pretrain.main(["--config", "nowhere.yaml"]) == 2
    error = capsys.readouterr().err
    assert error == "" if reported is None else error.startswith(f"electra-scale: error: {reported}recipe nowhere.yaml")
