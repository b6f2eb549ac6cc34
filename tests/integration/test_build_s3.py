"""Builds into a bucket: the same store as in a folder, killed and continued, and never two builds mixed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.build.claim import claimed
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Entry, Place
from data_pipeline.store.manifest import load_manifest
from tests.support.fixtures.builds import build, command, group_is_gone, store_bytes
from tests.support.fixtures.builds import write_config as write_any_config
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(small_corpus: Path) -> Path:
    return small_corpus


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same build in a folder."""
    folder = tmp_path_factory.mktemp("reference")
    build(write_config(corpus, folder), "--workers=2")
    return folder / "store"


@pytest.fixture(scope="module")
def given(corpus: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same build in a folder with the vocabulary that the other one trained."""
    folder = tmp_path_factory.mktemp("given")
    build(write_config(corpus, folder, **vocabulary(trained)), "--workers=2")
    return folder / "store"


def write_config(corpus: Path, folder: Path, out: str | None = None, **changes: Any) -> Path:
    """Fewer tasks than in a folder: each costs requests."""
    return write_any_config(corpus, folder, out, task_bytes=50_000, **changes)


def vocabulary(trained: Path) -> dict[str, Any]:
    return {"tokenizer": {"path": str(trained / "tokenizer")}}


def names(place: Place) -> set[str]:
    return {entry.name for entry in place.list()}


def bucket_bytes(place: Place) -> dict[str, bytes]:
    """Every object of a store but those of its work."""
    return {name: place.read(name) for name in names(place) if not name.startswith(".build/")}


def records(place: Place) -> dict[str, str]:
    """The finished records of an unfinished build, with what changes when they are written again."""
    return {entry.name: entry.identity for entry in place.list(".build/") if entry.name.endswith(".npz")}


def test_ranks_of_mpi_give_a_bucket_the_same_bytes(
    corpus: Path, trained: Path, s3: str, tmp_path: Path, mpiexec: tuple[str, ...]
) -> None:
    url = f"{s3}/from/ranks"
    assert build(write_config(corpus, tmp_path, url), launcher=mpiexec).count("built ") == 1
    assert bucket_bytes(open_place(url)) == store_bytes(trained)


@pytest.mark.parametrize("one_pass", [False, True], ids=["trained", "given"])
def test_a_bucket_gets_the_bytes_that_a_folder_gets(
    corpus: Path, trained: Path, given: Path, s3: str, tmp_path: Path, one_pass: bool
) -> None:
    url = f"{s3}/some/store"
    config = write_config(corpus, tmp_path, url, **(vocabulary(trained) if one_pass else {}))
    build(config, "--workers=2")
    place = open_place(url)
    assert bucket_bytes(place) == store_bytes(given if one_pass else trained)
    assert {name for name in names(place) if name.startswith(".build/")} == {
        ".build/claim.json",
        ".build/finished.json",
    }
    assert load_manifest(open_place(url)) == load_manifest(open_place(given if one_pass else trained))
    assert "already built" in build(config, "--workers=1")


@pytest.mark.parametrize("one_pass", [False, True], ids=["trained", "given"])
def test_a_killed_build_into_a_bucket_continues_on_any_machine(
    corpus: Path, trained: Path, given: Path, s3: str, tmp_path: Path, one_pass: bool
) -> None:
    url = f"{s3}/store"
    place = open_place(url)
    config = write_config(corpus, tmp_path, url, **(vocabulary(trained) if one_pass else {}))
    kept: dict[str, str] = {}
    for phase in ("read-", "tokens-"):
        process = subprocess.Popen(command(config, "--workers=2"), stderr=subprocess.DEVNULL, start_new_session=True)
        wait_for(lambda wanted=phase: sum(wanted in name for name in records(place)) >= 3, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda group=process.pid: group_is_gone(group))
        assert place.stat("manifest.json") is None
        found = records(place)
        assert kept.items() <= found.items()
        kept = found
    shown = build(config, "--workers=2")
    assert "continuing" in shown
    assert bucket_bytes(place) == store_bytes(given if one_pass else trained)


def test_of_two_builds_with_other_settings_one_makes_the_store_and_one_is_refused(
    corpus: Path, trained: Path, s3: str, tmp_path: Path
) -> None:
    url = f"{s3}/store"
    processes = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        changes = {**vocabulary(trained), "held_out": 0.05 + number / 10}
        config = write_config(corpus, tmp_path / str(number), url, **changes)
        processes.append(
            subprocess.Popen(command(config, "--workers=1"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    printed = [process.communicate(timeout=120)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2]
    [refusal] = printed[codes.index(2)].splitlines()
    assert "held_out was" in refusal
    assert "other settings" in refusal
    winner = tmp_path / "alone"
    winner.mkdir()
    changes = {**vocabulary(trained), "held_out": 0.05 + codes.index(0) / 10}
    build(write_config(corpus, winner, **changes), "--workers=1")
    assert bucket_bytes(open_place(url)) == store_bytes(winner / "store")


def test_two_equal_builds_at_once_make_one_sound_store(
    corpus: Path, trained: Path, given: Path, s3: str, tmp_path: Path
) -> None:
    config = write_config(corpus, tmp_path, f"{s3}/store", **vocabulary(trained))
    processes = [subprocess.Popen(command(config, "--workers=1"), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, printed = process.communicate(timeout=120)
        assert process.returncode == 0, printed
    assert bucket_bytes(open_place(f"{s3}/store")) == store_bytes(given)


def test_an_equal_build_that_starts_between_two_looks_at_the_bucket_is_not_taken_for_a_stranger(s3: str) -> None:
    place = open_place(f"{s3}/store")

    class Overtaken:
        """The place, where another build puts its claim and its first record right after each first look."""

        def __getattr__(self, name: str) -> Any:
            return getattr(place, name)

        def stat(self, name: str) -> Entry | None:
            found = place.stat(name)
            self.other()
            return found

        def list(self, prefix: str = "") -> Iterator[Entry]:
            found = list(place.list(prefix))
            self.other()
            return iter(found)

        def other(self) -> None:
            with claimed(place, "key", {"held_out": 0}):
                place.put(".build/key/read-00000.npz", b"record")

    with claimed(Overtaken(), "key", {"held_out": 0}) as work:
        assert work.finished() == {".build/key/read-00000.npz"}


def test_an_unfinished_build_is_not_gone_over_by_another(corpus: Path, s3: str, tmp_path: Path) -> None:
    url = f"{s3}/store"
    place = open_place(url)
    place.put(".build/claim.json", json.dumps({"key": "0" * 32, "settings": {"held_out": 0.5}}).encode())
    result = subprocess.run(
        command(write_config(corpus, tmp_path, url)), capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert "belongs to an unfinished build with other settings" in line
    assert "delete all of s3://" in line
    assert names(place) == {".build/claim.json"}


def test_a_prefix_with_other_things_is_not_written_to(corpus: Path, s3: str, tmp_path: Path) -> None:
    open_place(f"{s3}/store").put("thesis.tex", b"x")
    result = subprocess.run(
        command(write_config(corpus, tmp_path, f"{s3}/store")), capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    assert "not empty and not a store" in result.stderr
    assert names(open_place(f"{s3}/store")) == {"thesis.tex"}


def test_another_manifest_that_came_meanwhile_is_never_replaced(
    corpus: Path, trained: Path, s3: str, tmp_path: Path
) -> None:
    import dataclasses

    from data_pipeline.errors import UserError
    from data_pipeline.store.manifest import write_manifest

    manifest = load_manifest(open_place(trained))
    write_manifest(open_place(s3), manifest)
    write_manifest(open_place(s3), manifest)
    with pytest.raises(UserError, match=r"got another manifest\.json"):
        write_manifest(open_place(s3), dataclasses.replace(manifest, counts={}))
    assert load_manifest(open_place(s3)) == manifest
