"""Text is read and cleaned once where the store is a folder, and what was kept of it changes no byte of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipeline.build import build as build_module
from data_pipeline.build import steps
from data_pipeline.build.build import build_store
from data_pipeline.build.kept_text import read_texts, write_texts
from data_pipeline.config import BuildConfig
from data_pipeline.errors import UserError
from data_pipeline.read.documents import read_task
from tests.support.fixtures.builds import store_bytes

MakeConfig = Callable[..., BuildConfig]


class Killed(BaseException):
    pass


@given(st.lists(st.binary(max_size=50)))
@example([])
@example([b"a" * (3 << 20), b"", b"\xff" * (1 << 20), b"b"])
def test_texts_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, texts: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("kept") / "text.arrow"
    write_texts(path, iter(texts))
    assert list(read_texts(path)) == texts


def test_every_task_is_read_and_cleaned_once(
    config: MakeConfig, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[int] = []

    def counted(task: Any, *rest: Any) -> Iterator[str]:
        yield from read_task(task, *rest)
        whole.append(task.index)

    monkeypatch.setattr(steps, "read_task", counted)
    build_store(config("once"))
    assert len(whole) > 3
    assert sorted(whole) == list(range(len(whole)))
    assert store_bytes(tmp_path / "once") == store_bytes(store)


@pytest.fixture
def stopped(config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The kept text of a build that was killed when it had read everything."""

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "decide", killed)
        with pytest.raises(Killed):
            build_store(config("killed"))
    return sorted((tmp_path / "killed").glob(".build/*/text-*.arrow"))


def test_a_build_without_its_kept_text_reads_again(
    config: MakeConfig, store: Path, tmp_path: Path, stopped: list[Path]
) -> None:
    assert len(stopped) > 3
    for path in stopped[::2]:
        path.unlink()
    build_store(config("killed"))
    assert store_bytes(tmp_path / "killed") == store_bytes(store)
    assert not any(path.exists() for path in stopped)


@pytest.mark.parametrize("damage", ["cut", "empty", "another task's", "other text", "not Arrow"])
def test_damaged_text_is_named_and_read_again_when_it_is_deleted(
    config: MakeConfig, store: Path, tmp_path: Path, stopped: list[Path], damage: str
) -> None:
    path, other = stopped[:2]
    data = path.read_bytes()
    if damage == "other text":
        write_texts(path, [text.replace(b"Story", b"\xff\xfetory") for text in read_texts(path)])
    else:
        made = {
            "cut": data[: len(data) // 2],
            "empty": b"",
            "another task's": other.read_bytes(),
            "not Arrow": b"x" * 99,
        }
        path.write_bytes(made[damage])
    with pytest.raises(UserError) as refusal:
        build_store(config("killed"))
    assert str(refusal.value) == f"{path} is damaged: delete it and run the same command again"
    path.unlink()
    build_store(config("killed"))
    assert store_bytes(tmp_path / "killed") == store_bytes(store)
