"""Places by their URL, and what only a folder can do wrong. The whole protocol is tested for both kinds of place in
the integration tests."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.names import checked_name, is_object_store, split_s3_url
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Missing

NAMES = st.text(st.sampled_from("ab./\\~ é\0\n"), max_size=8)


def test_a_path_is_a_folder_and_nothing_is_made_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = open_place(tmp_path / "new")
    assert isinstance(place, FolderPlace)
    assert place.url == str(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_place("~/x").url == str(tmp_path / "x")


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://my-bucket.1/a", "my-bucket.1", "a"),
        ("s3://bucket/a/b c/", "bucket", "a/b c"),
    ],
)
def test_an_s3_url_is_a_bucket_and_a_prefix(url: str, bucket: str, prefix: str) -> None:
    assert is_object_store(url)
    assert split_s3_url(url) == (bucket, prefix)
    assert open_place(url).url == url.rstrip("/")


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///prefix", "s3://b ucket/x", "s3://bucket:80/x", "s3://bucket/../x", "s3://bucket/a//b"]
)
def test_a_bad_s3_url_is_refused_with_the_right_form(url: str) -> None:
    with pytest.raises(UserError, match="give s3://bucket/prefix") as error:
        open_place(url)
    assert url in str(error.value)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="must not hold credentials") as error:
        open_place("s3://somekey:somesecret@bucket/prefix")
    assert "some" not in str(error.value)


def test_an_unknown_scheme_is_refused_and_its_credentials_not_repeated() -> None:
    with pytest.raises(UserError, match="no store can be reached by gs://: give a folder or s3://bucket/prefix"):
        open_place("gs://bucket/prefix")
    with pytest.raises(UserError, match="https://") as error:
        open_place("https://somekey:somesecret@host/bucket?X-Amz-Signature=some")
    assert "some" not in str(error.value)


def test_a_name_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UserError, match=r"'caf\\udce9' is not a name in UTF-8: rename the folder"):
        open_place(os.fsdecode(b"caf\xe9"))


def test_a_new_file_is_written_once_also_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    place = FolderPlace(tmp_path)
    assert place.put_new("a", b"first")
    assert not place.put_new("a", b"second")
    assert place.read("a") == b"first"
    assert os.listdir(tmp_path) == ["a"]


@given(NAMES)
@example("")
@example(".")
@example("..")
@example("\ud800")
@example("a/../../b")
@example("/etc/passwd")
@example("a/..")
def test_no_name_leaves_its_place(name: str) -> None:
    try:
        checked_name(name)
    except ValueError:
        return
    path = os.path.normpath(os.path.join("/some/place", name))
    name.encode()
    assert path.startswith("/some/place/")
    assert path == f"/some/place/{name}"


@given(st.binary(max_size=40), st.integers(0, 50), st.integers(0, 50))
def test_a_range_is_a_slice(data: bytes, begin: int, end: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = FolderPlace(Path(folder))
        place.put("a", data)
        assert place.read_range("a", begin, end) == data[begin:end]


def test_files_under_way_are_not_listed(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)
    place.put("a/b.tmp", b"x")
    place.put("a/.hidden", b"x")
    (tmp_path / "a" / ".b.123.tmp").write_bytes(b"half")
    # Nor is a name that no manifest could hold.
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"x")
    assert [entry.name for entry in place.list()] == ["a/.hidden", "a/b.tmp"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)
    place.put("a", b"old")
    with pytest.raises(UserError):
        place.put_file("a", tmp_path / "no-such-source")
    assert place.read("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_is_reported_with_the_file_that_was_being_written(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)
    place.put("a", b"x" * 10)
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(UserError, match=f"{full}"):
        place.fetch("a", full)


def test_where_a_file_stands_for_a_folder_the_error_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    place = FolderPlace(tmp_path / "file")
    for write in (place.put, place.put_new):
        with pytest.raises(UserError, match=r"cannot write .*check the path"):
            write("a", b"x")
    with pytest.raises(Missing):
        place.read("a")
    assert place.stat("a") is None
    assert list(place.list()) == []
    with pytest.raises(UserError, match=r"cannot read .*Is a directory"):
        FolderPlace(tmp_path.parent).read(tmp_path.name)
