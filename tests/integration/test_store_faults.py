"""Places whose server fails: it is busy, slow, cut off, sends damaged data or is killed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Unavailable
from data_pipeline.places.retries import retries
from data_pipeline.places.s3 import PART_BYTES, S3Place
from tests.support.fixtures.faults import FaultyProxy
from tests.support.fixtures.places import fetched, line_of
from tests.support.fixtures.s3 import S3Server, free_ports

pytestmark = pytest.mark.slow


def test_a_busy_server_is_asked_again_and_the_retries_are_counted(faulty_s3: FaultyProxy, told: list[str]) -> None:
    place = open_place(faulty_s3.url)
    before = retries.count
    faulty_s3.every = {"slow_down": 3}
    for i in range(10):
        place.put(str(i), b"x")
    assert [e.name for e in place.list()] == [str(i) for i in range(10)]
    assert faulty_s3.injected["slow_down"] >= 4
    assert retries.count - before == len(told) == faulty_s3.injected["slow_down"]
    assert f"{faulty_s3.url}/" in told[0]
    assert "503 SlowDown: attempt 1 of 6" in told[0]


def test_a_server_that_stays_busy_is_given_up_after_so_many_attempts(
    faulty_s3: FaultyProxy, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    place = open_place(faulty_s3.url)
    place.put("a", b"x")
    faulty_s3.every = {"slow_down": 1}
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with pytest.raises(Unavailable, match="the store answers 503 SlowDown, 2 attempts; check the endpoint") as error:
        place.read("a")
    assert faulty_s3.url in line_of(error)
    monkeypatch.setenv("ELECTRA_SCALE_S3_ATTEMPTS", "3")
    with pytest.raises(Unavailable, match="3 attempts"):
        place.stat("a")
    assert faulty_s3.injected["slow_down"] == 5
    assert len(told) == 3


def test_a_server_that_does_not_answer_in_time(
    faulty_s3: FaultyProxy, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    place = open_place(faulty_s3.url)
    place.put("a", b"x")
    monkeypatch.setenv("ELECTRA_SCALE_S3_TIMEOUT", "1")
    monkeypatch.setenv("ELECTRA_SCALE_S3_ATTEMPTS", "2")
    faulty_s3.every, faulty_s3.delay_seconds = {"delay": 1}, 2.5
    with pytest.raises(Unavailable, match=r"time-out .ReadTimeoutError., 2 attempts") as error:
        place.read("a")
    assert faulty_s3.endpoint in line_of(error)
    faulty_s3.at_most = {"delay": faulty_s3.injected["delay"] + 1}
    assert place.read("a") == b"x"
    assert len(told) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_no_server_at_all(s3: str, monkeypatch: pytest.MonkeyPatch, host: str, told: list[str]) -> None:
    endpoint = f"http://{host}:{free_ports(1)[0]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("ELECTRA_SCALE_S3_ATTEMPTS", "2")
    reason = "no connection .EndpointConnectionError." if host == "127.0.0.1" else "host name is not known"
    with pytest.raises(Unavailable, match=f"at {endpoint}: .*{reason}, 2 attempts") as error:
        open_place(s3).put("a", b"x")
    assert s3 in line_of(error)
    assert len(told) == 1


def test_connections_that_break_are_made_again(faulty_s3: FaultyProxy, told: list[str]) -> None:
    place = open_place(faulty_s3.url)
    faulty_s3.every = {"refuse": 3, "lost": 4}
    for i in range(8):
        place.put(str(i), b"x")
        assert place.read(str(i)) == b"x"
    assert len(told) == faulty_s3.injected["refuse"] + faulty_s3.injected["lost"] > 4


def test_cut_bodies_are_continued_where_they_stopped(
    faulty_s3: FaultyProxy, big: Path, tmp_path: Path, told: list[str]
) -> None:
    place = open_place(faulty_s3.url)
    place.put_file("big", big)
    faulty_s3.every = {"cut": 2}
    assert fetched(place, "big", tmp_path) == big.read_bytes()
    assert place.read_range("big", 5, 500_000) == big.read_bytes()[5:500_000]
    assert len(list(place.list())) == 1
    assert len(told) == faulty_s3.injected["cut"] >= 2
    assert "cut short" in told[0]


@pytest.mark.parametrize("seed", [1, 2])
def test_under_every_fault_at_once_nothing_is_lost_or_wrong(
    faulty_s3: FaultyProxy, seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: list[str]
) -> None:
    monkeypatch.setenv("ELECTRA_SCALE_S3_ATTEMPTS", "20")
    place = open_place(faulty_s3.url)
    faulty_s3.seed, faulty_s3.delay_seconds = seed, 0.01
    faulty_s3.every = {"slow_down": 8, "refuse": 9, "lost": 10, "cut": 3, "flip_up": 4, "delay": 3}
    content = {f"{i}/{i}": bytes([i]) * (1000 * i + 1) for i in range(5)}
    for name, data in content.items():
        assert place.put_new(name, data) is True
        assert place.put_new(name, b"other") is False
    assert {entry.name: entry.size for entry in place.list()} == {name: len(data) for name, data in content.items()}
    for name, data in content.items():
        assert place.read(name) == data
        assert place.read_range(name, 10, 900) == data[10:900]
        assert fetched(place, name, tmp_path) == data
    breaking = faulty_s3.injected.total() - faulty_s3.injected["delay"]
    assert set(faulty_s3.injected) == set(faulty_s3.every)
    # One body may be both flipped and lost, so that one retry answers for two.
    assert 0 < len(told) <= breaking


def test_bodies_that_are_always_cut_are_given_up(faulty_s3: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELECTRA_SCALE_S3_ATTEMPTS", "3")
    place = open_place(faulty_s3.url)
    place.put("a", bytes(10_000))
    faulty_s3.every = {"cut": 1}
    for read in (lambda: place.read("a"), lambda: place.read_range("a", 0, 9_000)):
        with pytest.raises(Unavailable, match="the answer's body was cut short, 3 attempts") as error:
            read()
        line_of(error)


def test_a_file_replaced_while_it_is_fetched_is_never_mixed(s3: str, tmp_path: Path, told: list[str]) -> None:
    place = open_place(s3)
    size = PART_BYTES + 1000
    old, new = b"o" * size, b"n" * size
    for name, content in (("old", old), ("new", new)):
        (tmp_path / name).write_bytes(content)
    place.put_file("a", tmp_path / "old")
    swapped = threading.Event()

    class Swapping(S3Place):
        def _pour(self, name: str, begin: int, end: int, etag: str, sink: Callable[[bytes], object]) -> int:
            if begin and not swapped.is_set():
                swapped.set()
                place.put_file("a", tmp_path / "new")
            return super()._pour(name, begin, end, etag, sink)

    assert fetched(Swapping(s3), "a", tmp_path) == new
    assert swapped.is_set()
    assert len(told) == 1
    assert "was replaced while it was being read" in told[0]


def test_a_bit_that_flips_on_the_way_up_is_refused_by_the_server(
    faulty_s3: FaultyProxy, monkeypatch: pytest.MonkeyPatch, big: Path, told: list[str]
) -> None:
    monkeypatch.setenv("ELECTRA_SCALE_S3_ATTEMPTS", "2")
    place = open_place(faulty_s3.url)
    faulty_s3.every = {"flip_up": 1}
    for put in (lambda: place.put("a", b"abc"), lambda: place.put_new("a", b"abc"), lambda: place.put_file("a", big)):
        with pytest.raises(UserError, match="what arrived there does not fit its checksum") as error:
            put()
        line_of(error)
    faulty_s3.every = {}
    assert list(place.list()) == []
    faulty_s3.every, faulty_s3.at_most = {"flip_up": 1}, {"flip_up": faulty_s3.injected["flip_up"] + 1}
    place.put("a", b"abc")
    assert place.read("a") == b"abc"


def test_a_bit_that_flips_on_the_way_down_to_a_small_file_is_noticed(faulty_s3: FaultyProxy, told: list[str]) -> None:
    place = open_place(faulty_s3.url)
    place.put("a", b"abc")
    faulty_s3.every, faulty_s3.at_most = {"flip_down": 1}, {"flip_down": 1}
    assert place.read("a") == b"abc"
    assert len(told) == faulty_s3.injected["flip_down"] == 1


def test_put_new_whose_answer_was_lost_knows_its_own_file(faulty_s3: FaultyProxy, told: list[str]) -> None:
    place = open_place(faulty_s3.url)
    faulty_s3.only = lambda method, path: method == "PUT"
    faulty_s3.every, faulty_s3.at_most = {"lost": 1}, {"lost": 1}
    assert place.put_new("a", b"same") is True
    assert len(told) == 1
    assert place.put_new("a", b"same") is False


def test_put_new_whose_request_was_lost_does_not_claim_another_writers_file(
    faulty_s3: FaultyProxy, s3_server: S3Server
) -> None:
    place = open_place(faulty_s3.url)
    other = s3_server.client()

    def meanwhile(method: str, path: str) -> bool:
        if method == "PUT":
            other.put_object(Bucket=faulty_s3.url.removeprefix("s3://"), Key="a", Body=b"same")
        return method == "PUT"

    faulty_s3.only = meanwhile
    faulty_s3.every, faulty_s3.at_most = {"refuse": 1}, {"refuse": 1}
    assert place.put_new("a", b"same") is False


def test_an_upload_whose_last_answer_was_lost_is_whole(faulty_s3: FaultyProxy, big: Path, told: list[str]) -> None:
    place = open_place(faulty_s3.url)
    faulty_s3.only = lambda method, path: method == "POST" and "uploadId=" in path
    faulty_s3.every, faulty_s3.at_most = {"lost": 1}, {"lost": 1}
    place.put_file("big", big)
    assert len(told) == 1
    assert place.read("big") == big.read_bytes()


def test_an_upload_that_fails_leaves_nothing(
    faulty_s3: FaultyProxy, s3_server: S3Server, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELECTRA_SCALE_S3_ATTEMPTS", "2")
    place = open_place(faulty_s3.url)
    faulty_s3.only = lambda method, path: "partNumber=2" in path
    faulty_s3.every = {"slow_down": 1}
    with pytest.raises(Unavailable, match="503 SlowDown"):
        place.put_file("big", big)
    assert list(place.list()) == []
    assert "Uploads" not in s3_server.client().list_multipart_uploads(Bucket=faulty_s3.url.removeprefix("s3://"))


def test_an_upload_is_not_visible_before_it_is_whole(faulty_s3: FaultyProxy, big: Path) -> None:
    place = open_place(faulty_s3.url)
    faulty_s3.upload_bytes_per_second = 30e6
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(place.put_file, "big", big)
        listings = 0
        while not done.done():
            for entry in place.list():
                assert entry.size == big.stat().st_size
                assert "partNumber=2" in "".join(faulty_s3.paths)
            listings += 1
            time.sleep(0.02)
        done.result()
    assert listings > 5
    assert [e.size for e in place.list()] == [big.stat().st_size]


UPLOAD = """
import sys
from pathlib import Path
from data_pipeline.places.open import open_place
open_place(sys.argv[1]).put_file("big", Path(sys.argv[2]))
"""


def test_an_upload_that_is_killed_leaves_nothing_visible(faulty_s3: FaultyProxy, big: Path) -> None:
    place = open_place(faulty_s3.url)
    faulty_s3.upload_bytes_per_second = 10e6
    process = subprocess.Popen(
        [sys.executable, "-c", UPLOAD, faulty_s3.url, str(big)], env=os.environ | faulty_s3.environment
    )
    deadline = time.monotonic() + 60
    while not any("partNumber=2" in path for path in faulty_s3.paths):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(place.list()) == []
    assert place.stat("big") is None
    faulty_s3.upload_bytes_per_second = None
    place.put_file("big", big)
    assert place.read("big") == big.read_bytes()


def test_a_server_that_is_killed_and_comes_back_has_lost_nothing(
    s3: str, s3_server: S3Server, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_place(s3)
    place.put("a", b"x")
    s3_server.stop()
    try:
        with ThreadPoolExecutor(1) as pool:
            monkeypatch.setenv("ELECTRA_SCALE_S3_ATTEMPTS", "60")
            read = pool.submit(place.read, "a")
            while not told:
                time.sleep(0.01)
            s3_server.start()
            assert read.result() == b"x"
    finally:
        if not s3_server.running:
            s3_server.start()


def test_no_credential_reaches_a_log(
    faulty_s3: FaultyProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    place = open_place(faulty_s3.url)
    faulty_s3.every = {"slow_down": 2}
    place.put("a", b"x")
    place.read("a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    with pytest.raises(UserError):
        place.read("a")
    assert "503 SlowDown" in caplog.text
    for text in (S3Server.secret, S3Server.access_key, "another-secret", "Signature="):
        assert text not in caplog.text
