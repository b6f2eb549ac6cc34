"""Places against a real S3 server: the whole protocol, and every way in which a server fails."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.object_store import PART_BYTES, S3Place
from data_pipeline.place import Missing, Place, Unavailable, open_place
from data_pipeline.retries import retries
from tests.faults import FaultyProxy
from tests.s3 import S3Server, free_ports, use_environment

Make = Callable[[], Place]


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place of each kind; the one in S3 has a prefix."""
    if request.param == "folder":
        return open_place(tmp_path / "place")
    return open_place(request.getfixturevalue("s3") + "/some/prefix")


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The lines that retries tell."""
    lines: list[str] = []
    before, retries.listener = retries.listener, lines.append
    yield lines
    retries.listener = before


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two parts, the second a short one, without a period that would hide a swapped part."""
    path = tmp_path_factory.mktemp("big") / "big"
    path.write_bytes(np.arange((20 << 20) // 4, dtype=np.int32).tobytes())
    return path


def fetched(place: Place, name: str, folder: Path) -> bytes:
    target = folder / "fetched"
    target.write_bytes(b"\xff" * 100)
    place.fetch(name, target)
    return target.read_bytes()


def line_of(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    for secret in (S3Server.secret, S3Server.access_key, S3Server.powerless_secret, S3Server.powerless_access_key):
        assert secret not in text
        assert secret not in repr(error.value)
    # Nothing that a server or a library said hangs on the error: a traceback would print it.
    assert error.value.__cause__ is None
    return text


def test_what_is_put_can_be_read_whole_and_in_ranges(place: Place) -> None:
    place.put("a/b", b"hello")
    place.put("empty", b"")
    assert place.read("a/b") == b"hello"
    assert place.read("empty") == b""
    assert place.read_range("a/b", 1, 3) == b"el"
    assert place.read_range("a/b", 3, 30) == b"lo"
    assert place.read_range("a/b", 5, 30) == b""
    assert place.read_range("a/b", 2, 2) == b""
    assert place.read_range("empty", 0, 10) == b""


def test_put_replaces_and_the_identity_changes(place: Place) -> None:
    place.put("a", b"one")
    first = place.stat("a")
    place.put("a", b"two")
    second = place.stat("a")
    assert first is not None
    assert second is not None
    assert (first.name, first.size) == (second.name, second.size) == ("a", 3)
    assert first.identity != second.identity
    assert next(place.list("a")) == second
    assert place.read("a") == b"two"


def test_list_is_by_name_and_knows_only_files_that_start_with_the_prefix(place: Place) -> None:
    for name in ["b", "a/x", "a.b", "a-b/c", "a/b/c", "ab"]:
        place.put(name, name.encode())
    assert [(e.name, e.size) for e in place.list()] == [
        ("a-b/c", 5),
        ("a.b", 3),
        ("a/b/c", 5),
        ("a/x", 3),
        ("ab", 2),
        ("b", 1),
    ]
    assert [e.name for e in place.list("a/")] == ["a/b/c", "a/x"]
    assert [e.name for e in place.list("a/b")] == ["a/b/c"]
    assert [e.name for e in place.list("none")] == []


def test_a_missing_file_is_none_to_stat_and_missing_to_readers(place: Place, tmp_path: Path) -> None:
    assert list(place.list()) == []
    assert place.stat("a") is None
    place.put("folder/file", b"x")
    # What other names have as a folder is no file, nor is a name below a file.
    assert place.stat("folder") is None
    assert place.stat("folder/file/more") is None
    for read in (
        lambda: place.read("a"),
        lambda: place.read_range("a", 0, 1),
        lambda: fetched(place, "a", tmp_path),
        lambda: place.read("folder/file/more"),
    ):
        with pytest.raises(Missing, match="is missing") as error:
            read()
        assert place.url in str(error.value)


def test_delete_is_content_with_nothing(place: Place) -> None:
    place.put("a/b", b"x")
    place.delete("a/b")
    place.delete("a/b")
    place.delete("never/was")
    assert place.stat("a/b") is None
    assert list(place.list()) == []


def test_names_that_leave_the_place_are_refused(place: Place) -> None:
    for name in ["", "/a", "../a", "a/../b", "a//b", "a/", "./a", "a\0b"]:
        for use in (place.read, place.stat, place.delete, place.local, lambda n: place.put(n, b"x")):
            with pytest.raises(ValueError, match="not a relative file name"):
                use(name)


def test_of_ten_racing_put_new_exactly_one_wins(place: Place) -> None:
    barrier = threading.Barrier(10)

    def race(number: int) -> bool:
        barrier.wait()
        return place.put_new("manifest", f"writer {number}".encode())

    with ThreadPoolExecutor(10) as pool:
        won = list(pool.map(race, range(10)))
    assert won.count(True) == 1
    assert place.read("manifest") == f"writer {won.index(True)}".encode()
    assert place.put_new("manifest", b"late") is False
    assert [e.name for e in place.list()] == ["manifest"]


def test_a_file_of_several_parts_comes_back(place: Place, big: Path, tmp_path: Path) -> None:
    assert big.stat().st_size > PART_BYTES
    place.put_file("deep/big", big)
    entry = place.stat("deep/big")
    assert entry is not None
    assert entry.size == big.stat().st_size
    assert fetched(place, "deep/big", tmp_path) == big.read_bytes()
    across = place.read_range("deep/big", PART_BYTES - 3, PART_BYTES + 5)
    assert across == big.read_bytes()[PART_BYTES - 3 : PART_BYTES + 5]
    place.put_file("empty", Path(os.devnull))
    assert fetched(place, "empty", tmp_path) == b""


def test_a_listing_of_several_pages_is_whole(s3: str) -> None:
    place = open_place(s3)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: place.put(f"{i:04}", b""), range(1005)))
    assert [e.name for e in place.list()] == [f"{i:04}" for i in range(1005)]


def read_a(place: Place) -> bytes:
    return place.read("a")


def test_a_place_goes_to_a_spawned_process(s3: str) -> None:
    place = open_place(s3)
    place.put("a", b"x")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_a, (place,)) == b"x"
    assert pickle.loads(pickle.dumps(place)).url == s3


def test_missing_bucket(s3: str) -> None:
    place = open_place("s3://no-such-bucket/prefix")
    for use in (
        lambda: place.stat("a"),
        lambda: place.read("a"),
        lambda: place.put("a", b"x"),
        lambda: list(place.list()),
    ):
        with pytest.raises(UserError, match="there is no bucket no-such-bucket: create it") as error:
            use()
        assert "s3://no-such-bucket/prefix" in line_of(error)


def test_wrong_credentials(s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    place = open_place(s3)

    def all_uses_say(match: str) -> None:
        uses: list[Callable[[], object]] = [
            lambda: place.stat("a"),
            lambda: place.read("a"),
            lambda: place.put("a", b"x"),
            lambda: place.put_new("a", b"x"),
            lambda: list(place.list()),
        ]
        for use in uses:
            with pytest.raises(UserError, match=match) as error:
                use()
            assert not isinstance(error.value, Unavailable | Missing)
            assert s3 in line_of(error)
            assert s3_server.endpoint in line_of(error)

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    all_uses_say("does not fit the access key .SignatureDoesNotMatch.: check AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown-key")
    all_uses_say("not known there .InvalidAccessKeyId.: check AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.powerless_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.powerless_secret)
    all_uses_say("access denied .AccessDenied.: these credentials need the right to")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    all_uses_say("no credentials .NoCredentialsError.: set AWS_PROFILE")
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(UserError, match=r"ProfileNotFound.: check AWS_PROFILE"):
        place.read("a")


def test_settings_come_from_the_config_file(
    s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = open_place(s3)
    place.put("a", b"x")
    config = tmp_path / "config"
    config.write_text(
        f"[profile mine]\nregion = us-east-1\nendpoint_url = {s3_server.endpoint}\n"
        f"aws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret}\n"
        "s3 =\n    addressing_style = path\n"
    )
    use_environment(monkeypatch, {"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "mine"})
    assert place.read("a") == b"x"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ELECTRA_SCALE_S3_ATTEMPTS", "0"),
        ("ELECTRA_SCALE_S3_ATTEMPTS", "many"),
        ("ELECTRA_SCALE_S3_TIMEOUT", "-1"),
        ("ELECTRA_SCALE_S3_TIMEOUT", "nan"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    s3: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable} is '{value}'"):
        open_place(s3).read("a")


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
    monkeypatch.setenv("ELECTRA_SCALE_S3_TIMEOUT", "0.3")
    monkeypatch.setenv("ELECTRA_SCALE_S3_ATTEMPTS", "2")
    place = open_place(faulty_s3.url)
    place.put("a", b"x")
    faulty_s3.every, faulty_s3.delay_seconds = {"delay": 1}, 1.0
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


def test_cut_bodies_are_taken_up_where_they_stopped(
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
        looks = 0
        while not done.done():
            for entry in place.list():
                assert entry.size == big.stat().st_size
                assert "partNumber=2" in "".join(faulty_s3.paths)
            looks += 1
            time.sleep(0.02)
        done.result()
    assert looks > 5
    assert [e.size for e in place.list()] == [big.stat().st_size]


UPLOAD = """
import sys
from pathlib import Path
from data_pipeline.place import open_place
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


def test_without_boto3_the_install_line_is_given() -> None:
    code = (
        "import sys; sys.modules['boto3'] = None\n"
        "from data_pipeline.errors import UserError\n"
        "from data_pipeline.place import open_place\n"
        "try: open_place('s3://bucket')\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'electra-scale[s3]'" in done.stdout


@pytest.fixture
def moto(
    require_part: Callable[[bool, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyProxy]:
    """Another server, which checks no signature, so that the proxy may take headers away."""
    binary = Path(sys.executable).with_name("moto_server")
    require_part(binary.exists(), "pip install 'moto[s3,server]'")
    port = free_ports(1)[0]
    with (tmp_path / "moto.log").open("wb") as log:
        process = subprocess.Popen(
            [binary, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log, start_new_session=True
        )
    proxy = FaultyProxy(f"127.0.0.1:{port}")
    proxy.environment = {
        "AWS_ENDPOINT_URL": proxy.endpoint,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
        "ELECTRA_SCALE_S3_ATTEMPTS": "60",
    }
    use_environment(monkeypatch, proxy.environment)
    try:
        with pytest.raises(UserError, match="there is no bucket"):
            open_place("s3://bucket").read("a")
        import boto3

        boto3.client("s3").create_bucket(Bucket="bucket")
        proxy.url = "s3://bucket"
        yield proxy
    finally:
        proxy.stop()
        process.kill()
        process.wait()


def test_a_server_that_knows_neither_ranges_nor_conditions(moto: FaultyProxy, big: Path, tmp_path: Path) -> None:
    place = open_place(moto.url)
    for drop in (set(), {"range", "if-match", "if-none-match"}):
        moto.drop_headers = drop
        place.put_file("big", big)
        moto.every = {"cut": 2}
        assert fetched(place, "big", tmp_path) == big.read_bytes()
        assert place.read_range("big", 100, 200) == big.read_bytes()[100:200]
        assert place.read_range("big", big.stat().st_size, big.stat().st_size + 1) == b""
        moto.every = {}
        assert place.put_new("new", b"first") is True
        assert place.put_new("new", b"second") is False
        assert place.read("new") == b"first"
        assert [e.name for e in place.list()] == ["big", "new"]
        place.delete("new")
        place.delete("big")
        assert place.stat("big") is None
