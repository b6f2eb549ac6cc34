"""A run folder with any one file damaged gets an answer or one line from every command, and never a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from electra_scale.cli import main
from electra_scale.commands import requeue
from electra_scale.recipe.parse import parse_recipe, pretrain_parser
from electra_scale.train.engine.world import World
from electra_scale.train.lifecycle.stop import StopRequests
from electra_scale.train.loop import Run
from tests.support.fixtures.s3 import free_ports
from tests.support.instruments.fuzzing import explore

pytestmark = pytest.mark.slow

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    1e400,
    "",
    "x",
    [],
    [[]],
    {},
    {"version": 99},
    {"version": None},
    {"files": 3},
]


@pytest.fixture(scope="module")
def folder(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with all that a run may leave, and its export."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(finished_run, folder)
    (folder / "requeue.json").write_text('{"job": "1", "step": 2, "idle": 1, "version": 1}\n')
    (folder / "probe").mkdir()
    (folder / "probe/step-00000002.json").write_text("{}\n")
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["export", str(folder), str(folder / "export")]) == 0
    return folder


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A world of one rank, with a real process group."""
    address = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    yield World(0, 1, torch.device("cpu"))
    torch.distributed.destroy_process_group()


@st.composite
def damage(draw: st.DrawFn, names: list[str]) -> tuple[str, str, Any]:
    """A file, what happens to it, and by how much."""
    name = draw(st.sampled_from(names))
    kind = draw(
        st.sampled_from(["cut", "flip", "bytes", "text", "value", "field", "gone", "folder", "loop", "nowhere"])
    )
    extent: Any = draw(st.floats(0, 1))
    if kind == "bytes":
        extent = draw(st.binary(max_size=40))
    elif kind == "text":
        extent = draw(st.text(max_size=40))
    elif kind == "value":
        extent = draw(st.sampled_from(VALUES))
    elif kind == "field":
        extent = extent, draw(st.sampled_from(VALUES))
    return name, kind, extent


def fields(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in nested lists and mappings."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from fields(value[key])


def spoil(path: Path, kind: str, extent: Any) -> None:
    data = path.read_bytes()
    if kind == "cut":
        path.write_bytes(data[: int(extent * len(data))])
    elif kind == "flip" and data:
        place = min(int(extent * len(data)), len(data) - 1)
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :])
    elif kind == "bytes":
        path.write_bytes(extent)
    elif kind == "text":
        path.write_text(extent, "utf-8", "surrogatepass")
    elif kind == "value":
        path.write_text(json.dumps(extent))
    elif kind == "field":
        spoil_field(path, *extent)
    elif kind in ("gone", "folder", "loop", "nowhere"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "nowhere":
            path.symlink_to("/nowhere/at/all")


def spoil_field(path: Path, where: float, value: Any) -> None:
    """Replace a value somewhere in a JSON file or in a line of one; another file becomes the value."""
    lines = path.read_text("utf-8", "replace").splitlines() if path.suffix == ".jsonl" else []
    text = lines[-1] if lines else path.read_text("utf-8", "replace")
    with contextlib.suppress(ValueError, IndexError):
        content = json.loads(text)
        places = list(fields(content))
        holder, key = places[min(int(where * len(places)), len(places) - 1)]
        holder[key] = value
        text = json.dumps(content)
    path.write_text("\n".join([*lines[:-1], text]) + "\n", "utf-8")


def resumed(run: Path, world: World) -> int:
    """What a start with --resume auto reads before it trains."""
    more = ["--run_dir", str(run), "--resume", "auto", "--schedule.steps", "9"]
    recipe, _ = parse_recipe(pretrain_parser(), ["--config", str(run / "recipe.yaml"), *more])
    with contextlib.ExitStack() as held:
        started = Run(recipe, True, world, StopRequests(), None, held)
        started.folder.describe(started.recipe, started.deepspeed_json, started.store)
        held.callback(started.reporter.close)
        started.reporter.open(started.start.step, started.start.step)
        started.reporter.status("running", started.start.step)
    return 0


COMMANDS: dict[str, Callable[[Path, World], int]] = {
    "status": lambda run, _: main(["status", str(run)]),
    "export": lambda run, _: main(["export", str(run), str(run / "out")]),
    "probe": lambda run, _: main(["probe", str(run), "--samples", "2", "--draws", "2"]),
    "requeue": lambda run, _: requeue.main(["decide", str(run), "--job", "1", "--code", "1"]),
    "plan": lambda run, _: main(["plan", "--config", str(run / "recipe.yaml")]),
    "try": lambda run, _: main(["try", str(run / "export"), "--masked", "Return the [MASK].", "--wrong", "Raise it."]),
    "resume": resumed,
}


OWN = ("recipe.yaml", "tokenizer/", "checkpoints/")
READ: dict[str, tuple[str, ...]] = {
    "status": ("status.json",),
    "export": OWN,
    "probe": (*OWN, "probe/"),
    "requeue": ("requeue.json", "status.json", "checkpoints/"),
    "plan": ("recipe.yaml",),
    "try": ("export/",),
    "resume": (*OWN, "data.json", "metrics.jsonl", "status.json", "log.txt", "tensorboard/"),
}
"""Beginnings of the names of the files that a command reads."""

EXAMPLES = {"status": 10, "export": 2, "probe": 2, "requeue": 10, "plan": 3, "try": 2, "resume": 3}
"""In each round; most commands take a good part of a second."""


def answer_of(command: str, run: Path, world: World) -> str:
    """ "answered" or "refused"; any other exception is the failure that is looked for."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = COMMANDS[command](run, world)
        except UserError:
            return f"{command} refused"
        except SystemExit as end:
            code = int(end.code or 0)
    if code == 2:
        lines = [line for line in error.getvalue().splitlines() if "error: " in line]
        assert len(lines) == 1, error.getvalue()
        return f"{command} refused"
    assert code in (0, 1, 3, requeue.REQUEUE)
    return f"{command} answered"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_answer_or_a_line_whatever_file_is_damaged(command: str, folder: Path, world: World, tmp_path: Path) -> None:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in files if name.startswith(READ[command])]
    assert answer_of(command, copied(folder, tmp_path), world) == f"{command} answered"

    def answer(spoiled: tuple[str, str, Any]) -> str:
        name, kind, extent = spoiled
        run = copied(folder, tmp_path)
        spoil(run / name, kind, extent)
        return answer_of(command, run, world)

    states = [name for name in files if name.endswith("/run_state.json")]
    needed = {"try": "export/discriminator/config.json", "requeue": states[-1]}.get(command, READ[command][0])
    assert answer((needed, "bytes", b"\x80")) == f"{command} refused"
    explore(damage(names), answer, examples=EXAMPLES[command])


def copied(folder: Path, tmp_path: Path) -> Path:
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    shutil.copytree(folder, tmp_path / "run")
    return tmp_path / "run"
