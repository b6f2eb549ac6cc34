"""Hostfile and ``.deepspeed_env``: what deepspeed accepts is accepted, what it refuses is refused with the line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from deepspeed.launcher.runner import _parse_hostfile
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from electra_scale.cluster.hostfile import deepspeed_env, read_hostfile

NAMES = st.lists(st.from_regex(r"[a-z0-9][a-z0-9.-]{0,8}", fullmatch=True), min_size=1, max_size=6, unique=True)


@given(NAMES, st.integers(1, 16))
def test_hosts_are_those_that_deepspeed_finds(names: list[str], slots: int) -> None:
    lines = ["# of the cluster", ""]
    for name in names:
        lines += [f"  {name}\tslots={slots}  ", "", "   # next"]
    assert hosts_of("\n".join(lines)) == list(_parse_hostfile(lines)) == names


def hosts_of(text: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hostfile"
        path.write_text(text)
        return read_hostfile(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("n1 slots=2\nn2\n", r"hostfile, line 2: 'n2' is not of the form `NAME slots=N`"),
        ("n1 slots=two\n", r"hostfile, line 1: 'n1 slots=two' is not"),
        ("n1 slots=2\n\nn1 slots=4\n", r"hostfile, line 3: n1 is named twice"),
        ("-oProxyCommand=x slots=2\n", r"hostfile, line 1: '-oProxyCommand=x' is an option"),
        ("# nothing\n", r"hostfile names no host"),
    ],
)
def test_a_bad_line_is_named(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        hosts_of(text)


def test_a_missing_hostfile_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent cannot be read"):
        read_hostfile(tmp_path / "absent")


def test_variables_of_the_current_folder_take_precedence_over_those_of_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for folder, text in ((home, "A=home\nB=b=c d\n"), (here, "A=here\n")):
        folder.mkdir()
        (folder / ".deepspeed_env").write_text(text)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert deepspeed_env() == {"A": "here", "B": "b=c d"}
    (here / ".deepspeed_env").write_text("A=here\n\n")
    with pytest.raises(UserError, match=r"\.deepspeed_env, line 2: '' is not NAME=value"):
        deepspeed_env()
