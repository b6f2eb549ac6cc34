"""One owner of a run folder, or of a copy, at a time; an owner that is gone is followed, one that lives is not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Place
from electra_scale.cluster.process import this_process
from electra_scale.train.checkpoint import owner
from electra_scale.train.checkpoint.owner import HEARTBEAT, RECORD, InUse, Owner, Ownership, new_token
from tests.support.waiting import wait_for

OWNER = """
import sys, time
from pathlib import Path
from data_pipeline.places.folder import FolderPlace
from electra_scale.train.checkpoint import owner

owner._BEAT_SECONDS = 0.1
lost = []
held = owner.Ownership(FolderPlace(Path(sys.argv[1])), "theirs", "go", print, lambda: lost.append(1))
held.claim()
while not lost:
    time.sleep(0.01)
try:
    held.confirm()
except owner.InUse as error:
    print(error, flush=True)
held.release()
"""


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "LEASE_SECONDS", 0.8)
    monkeypatch.setattr(owner, "_BEAT_SECONDS", 0.1)
    monkeypatch.setattr(owner, "_LOOK_SECONDS", 0.02)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def other(run: Path) -> Iterator[subprocess.Popen[str]]:
    """A real process that owns the run."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(run)], stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (run / RECORD).exists(), process)
    yield process
    process.kill()
    process.communicate()


def ownership(place: Path | Place, log: Callable[[str], None] = print, lost: Any = lambda: None) -> Ownership:
    found = FolderPlace(place) if isinstance(place, Path) else place
    return Ownership(found, new_token(), "choose another folder with --run_dir", log, lost)


def stranger(run: Path, **changes: Any) -> Owner:
    """The record of an owner on another host, in the folder."""
    process = replace(this_process(), host="node7", boot="another", since="2026-01-02 03:04:05 +0000")
    found = Owner("stranger", process, **changes)
    run.mkdir(exist_ok=True)
    (run / RECORD).write_text(json.dumps(asdict(found)))
    return found


@pytest.mark.slow
def test_a_second_start_is_refused_naming_process_host_and_time(run: Path, other: subprocess.Popen[str]) -> None:
    before = {path: path.read_bytes() for path in run.iterdir() if path.name == RECORD}
    with pytest.raises(InUse) as refusal:
        ownership(run).claim()
    words = str(refusal.value)
    host = this_process().host
    assert f"{run} is in use by process {other.pid} on {host}, since 20" in words
    assert f"end it first (kill {other.pid} on {host}: it saves and stops), or choose another folder" in words
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_a_killed_owner_is_followed_at_once(run: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    lines: list[str] = []
    began = time.monotonic()
    ownership(run, lines.append).claim()
    assert time.monotonic() - began < owner.LEASE_SECONDS / 2
    (line,) = lines
    assert f"was owned by process {other.pid} on" in line
    assert "this start takes it over" in line


@pytest.mark.slow
def test_a_suspended_owner_is_followed_after_a_lease_and_stops_when_it_wakes_up(
    run: Path, other: subprocess.Popen[str]
) -> None:
    other.send_signal(signal.SIGSTOP)
    lines: list[str] = []
    began = time.monotonic()
    held = ownership(run, lines.append)
    held.claim()
    assert time.monotonic() - began >= owner.LEASE_SECONDS
    assert f"delete {run}/owner.json to end the wait" in lines[0]
    other.send_signal(signal.SIGCONT)
    out, _ = other.communicate(timeout=60)
    assert f"{run} has been taken over by process {this_process().pid} on {this_process().host}" in out
    held.confirm()


def test_an_owner_that_cannot_be_seen_is_refused_at_its_first_sign_of_life(run: Path) -> None:
    stranger(run)
    done = threading.Event()

    def beat() -> None:
        number = 0
        while not done.wait(0.05):
            number += 1
            (run / HEARTBEAT).write_text(f"stranger {number}")

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InUse, match=r"in use by process \d+ on node7, since 2026-01-02 03:04:05 \+0000"):
            ownership(run).claim()
    finally:
        done.set()
        thread.join()
    assert json.loads((run / RECORD).read_text())["token"] == "stranger"


@pytest.mark.parametrize("content", ["", '{"version": 9}'])
def test_a_record_that_cannot_be_read_is_an_owner_until_the_lease_is_over(run: Path, content: str) -> None:
    run.mkdir()
    (run / RECORD).write_text(content)
    began = time.monotonic()
    ownership(run).claim()
    assert time.monotonic() - began >= owner.LEASE_SECONDS


@pytest.mark.parametrize(
    "changes",
    [{"token": 5}, {"token": ""}, {"process": 5}, {"process": {}}, {"restart": "2"}, {"more": 1}, {"version": 2}],
)
def test_a_record_of_another_shape_names_nobody(changes: dict[str, Any]) -> None:
    content = asdict(Owner("one", this_process()))
    assert owner._decode(json.dumps(content).encode()) == Owner("one", this_process())
    assert owner._decode(json.dumps(content | changes).encode()) is None


@pytest.mark.parametrize("changes", [{"pid": "x"}, {"pid": 0}, {"pid": -1}, {"pid": 1 << 40}, {"boot": None}])
def test_a_process_of_another_shape_names_nobody(changes: dict[str, Any]) -> None:
    content = asdict(Owner("one", this_process()))
    content["process"] |= changes
    assert owner._decode(json.dumps(content).encode()) is None


def test_removing_the_record_ends_the_wait(run: Path) -> None:
    stranger(run)
    began = time.monotonic()
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        (run / RECORD).unlink()

    ownership(run, log).claim()
    assert len(lines) == 1
    assert time.monotonic() - began < owner.LEASE_SECONDS / 2


@pytest.mark.parametrize(("job", "restart", "gone"), [("7", 2, True), ("7", 1, None), ("7", 0, None), ("8", 2, None)])
def test_an_earlier_start_of_the_same_slurm_job_is_gone(
    run: Path, monkeypatch: pytest.MonkeyPatch, job: str, restart: int, gone: bool | None
) -> None:
    found = stranger(run, job="7", restart=1)
    monkeypatch.delenv("SLURM_CLUSTER_NAME", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
    assert found.gone() is gone


@pytest.mark.slow
def test_a_suspended_owner_that_is_killed_is_followed_before_the_lease_is_over(
    run: Path, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "LEASE_SECONDS", 60.0)
    other.send_signal(signal.SIGSTOP)
    ownership(run, lambda line: other.kill()).claim()


def test_of_many_that_start_at_once_one_becomes_the_owner(run: Path) -> None:
    found: list[str] = []

    def start() -> None:
        try:
            ownership(run).claim()
            found.append("owner")
        except InUse:
            found.append("refused")

    threads = [threading.Thread(target=start) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["owner", *["refused"] * 11]


def test_an_orderly_end_leaves_nothing_and_a_refused_start_no_folder(run: Path) -> None:
    held = ownership(run)
    held.claim()
    wait_for((run / HEARTBEAT).exists)
    held.release()
    assert not run.exists()
    run.mkdir()
    (run / "metrics.jsonl").touch()
    held = ownership(run)
    held.claim()
    held.release()
    assert [path.name for path in run.iterdir()] == ["metrics.jsonl"]


def test_an_owner_whose_record_was_removed_puts_it_back_and_one_whose_record_was_replaced_is_none(run: Path) -> None:
    lost = threading.Event()
    held = ownership(run, lost=lost.set)
    held.claim()
    (run / RECORD).unlink()
    held.confirm()
    assert json.loads((run / RECORD).read_text())["token"] == held.token
    stranger(run)
    with pytest.raises(InUse, match=r"has been taken over by process .* on node7"):
        held.confirm()
    assert not held.owned()
    assert lost.wait(30)
    assert held.loss is not None
    held.release()
    assert json.loads((run / RECORD).read_text())["token"] == "stranger"


def test_ranks_see_the_record_of_their_own_start_only(run: Path, tmp_path: Path) -> None:
    held = ownership(run)
    held.claim()
    same = Ownership(FolderPlace(run), held.token, "", print)
    assert same.visible(0)
    same.confirm()
    assert not Ownership(FolderPlace(tmp_path / "elsewhere"), held.token, "", print).visible(0.1)
    assert not ownership(run).visible(0.1)
    held.release()


@pytest.mark.slow
def test_a_copy_in_a_bucket_has_one_owner_too(s3: str) -> None:
    place = open_place(f"{s3}/runs/one")
    first = ownership(place)
    first.claim()
    with pytest.raises(InUse, match=f"{s3}/runs/one is in use by process"):
        ownership(open_place(place.url)).claim()
    first.confirm()
    wait_for(lambda: place.stat(HEARTBEAT) is not None)
    first.release()
    assert list(place.list()) == []
    gone = replace(this_process(), started=1)
    place.put(RECORD, json.dumps(asdict(Owner("gone", gone))).encode())
    second = ownership(place)
    second.claim()
    second.confirm()
    with pytest.raises(InUse, match="has been taken over"):
        first.confirm()
    second.release()
