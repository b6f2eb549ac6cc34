"""Places against a real S3 server: the whole protocol, its settings, and what they refuse."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Missing, Place, Unavailable
from data_pipeline.places.s3 import PART_BYTES
from tests.support.fixtures.faults import FaultyProxy
from tests.support.fixtures.places import fetched, line_of
from tests.support.fixtures.s3 import S3Server, free_ports, use_environment

pytestmark = pytest.mark.slow


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
    # The folder of other names is not a file, nor is there a file below a file.
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


def test_without_boto3_the_install_line_is_given() -> None:
    code = (
        "import sys; sys.modules['boto3'] = None\n"
        "from data_pipeline.errors import UserError\n"
        "from data_pipeline.places.open import open_place\n"
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
