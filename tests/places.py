"""Fixtures for tests of places: files of each kind of place, a large file, and what retries tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.place import Place, open_place
from data_pipeline.retries import retries
from tests.s3 import S3Server


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
