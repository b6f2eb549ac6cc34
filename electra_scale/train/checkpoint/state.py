"""Which checkpoints a run has, and the state of the run that each of them holds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import sync_folder, write_bytes
from data_pipeline.places.json_file import decode_record, encode_record
from electra_scale.recipe.phases import Phase
from electra_scale.train.checkpoint import checksums
from electra_scale.train.checkpoint.checksums import Sums

STATE = "run_state.json"
"""The file without which a checkpoint is unfinished."""

_KEYS = {"pending": "owed"}
"""Names in the file that are not those of the fields."""

_LATEST = "latest"
_TAG = re.compile(r"step-(\d{8})")
_UNFINISHED = "unfinished-"


@dataclass
class RunState:
    """What a checkpoint knows besides weights and optimizer. ``step`` counts optimizer steps of both phases.

    ``skipped`` steps in all and ``skipped_in_row`` at the end were not finite. ``pending`` holds the metrics so far of
    the step's row, where a stop came before its evaluation was done; the file calls it ``owed``.
    """

    step: int
    phase: str
    world_size: int
    tokenizer: str
    loader: dict[str, Any]
    discriminator_losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    finished: bool = False
    skipped: int = 0
    skipped_in_row: int = 0
    pending: dict[str, float] | None = None
    version: int = 1


def tag_of(step: int) -> str:
    """Name of the checkpoint folder of a step."""
    return f"step-{step:08d}"


def step_of(tag: str) -> int:
    """The step of a checkpoint folder's name."""
    return int(tag.removeprefix("step-"))


def is_tag(name: str) -> bool:
    """Whether a name is that of a checkpoint folder."""
    return _TAG.fullmatch(name) is not None


def unfinished_of(tag: str, token: str) -> str:
    """Name of the folder that a checkpoint is written into by the start of the run that has this token.

    Another start never has the same, so that what an orphan of a killed one still writes gets into no other checkpoint.
    """
    return f"{_UNFINISHED}{tag}-{token}"


def place(folder: Path, unfinished: str, tag: str) -> None:
    """Give the folder that a checkpoint was written into its name; it counts once :func:`finish` has been called."""
    left = folder / tag
    if left.exists() and not (left / STATE).is_file():
        # What a killed save of an earlier release has left.
        shutil.rmtree(left)
    (folder / unfinished).rename(left)
    sync_folder(folder)


def finish(
    folder: Path,
    state: RunState,
    keep: int,
    *,
    keep_every: int = 0,
    sums: Sums | None = None,
    spared: Collection[str] = (),
) -> None:
    """Make a checkpoint visible once every rank has written its part, whose files are ``sums``; then :func:`prune`.

    The state file is written last, so that a folder without one is known to be unfinished.
    """
    tag, content = tag_of(state.step), _encode(state)
    checksums.write_list(folder / tag, {**(sums or {}), STATE: checksums.sum_of_bytes(content)})
    write_bytes(folder / tag / STATE, content)
    name_latest(folder, tag)
    prune(folder, keep, keep_every, spared)


def rewrite_state(folder: Path, state: RunState) -> None:
    """Replace the state of a finished checkpoint. A kill at any moment leaves a whole one."""
    path, content = folder / tag_of(state.step), _encode(state)
    sums = checksums.read_list(path)
    # In between no sum of the state is listed, since two files can't change as one.
    checksums.write_list(path, {name: found for name, found in sums.items() if name != STATE})
    write_bytes(path / STATE, content)
    checksums.write_list(path, {**sums, STATE: checksums.sum_of_bytes(content)})


def _encode(state: RunState) -> bytes:
    return encode_record({_KEYS.get(name, name): value for name, value in asdict(state).items()})


def superfluous(tags: list[str], keep: int, keep_every: int) -> list[str]:
    """Those of ``tags``, oldest first, that are neither among the newest ``keep`` nor at a multiple of ``keep_every``.

    With ``keep_every`` 0 only the newest stay.
    """
    return [tag for tag in tags[:-keep] if not keep_every or step_of(tag) % keep_every]


def prune(folder: Path, keep: int, keep_every: int, spared: Collection[str]) -> None:
    """Remove the superfluous checkpoints, but those in ``spared``, which somebody reads."""
    for old in superfluous(complete_tags(folder), keep, keep_every):
        if old not in spared:
            # The state file goes first: half removed must not look finished.
            (folder / old / STATE).unlink()
            shutil.rmtree(folder / old)


def set_aside(folder: Path, tag: str) -> Path:
    """Rename a damaged checkpoint, so that nothing takes it for a good one or writes into it; its new path."""
    target = folder / f"damaged-{tag}"
    shutil.rmtree(target, ignore_errors=True)
    (folder / tag).rename(target)
    return target


def name_latest(folder: Path, tag: str) -> None:
    """Write which checkpoint is the newest, for programs that read DeepSpeed's folders."""
    write_bytes(folder / _LATEST, tag.encode() + b"\n")


def refuse_damaged(folder: Path, tag: str) -> None:
    """Raise UserError if the files of a checkpoint are not what was written; one without a list of them passes."""
    if (folder / tag / checksums.LIST).is_file():
        reason = checksums.problem(folder / tag)
        if reason is not None:
            raise UserError(f"checkpoint {folder / tag} is damaged: {reason}; choose another one with --step")


def discard_unfinished(folder: Path) -> None:
    """Remove what killed saves left behind."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _TAG.fullmatch(path.name) and not (path / STATE).is_file():
            shutil.rmtree(path)
        elif path.name.startswith(_UNFINISHED):
            # An orphan of a killed start may still write there.
            shutil.rmtree(path, ignore_errors=True)


def complete_tags(folder: Path) -> list[str]:
    """Names of the finished checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if _TAG.fullmatch(p.name) and (p / STATE).is_file())


def tag_at(folder: Path, step: int | None) -> str:
    """Name of the finished checkpoint of a step, or of the newest; raises UserError if there is none."""
    tags = complete_tags(folder)
    if not tags:
        raise UserError(f"{folder.parent} has no finished checkpoint in {folder}; train it first")
    tag = tags[-1] if step is None else tag_of(step)
    if tag not in tags:
        raise UserError(f"{folder.parent} has no checkpoint {tag}; it has {', '.join(tags)}")
    return tag


def newest(folder: Path) -> RunState | None:
    """State of the newest finished checkpoint, or None; unfinished folders are passed over."""
    tags = complete_tags(folder)
    return read_state(folder, tags[-1]) if tags else None


def read_state(folder: Path, tag: str) -> RunState:
    """State of one checkpoint; raises UserError if it can't be read or is of another version."""
    path = folder / tag / STATE
    where, advice = f"the checkpoint state {path}", f"remove the folder {folder / tag}"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}); {advice}") from error
    return decode_record(data, where, _decode, advice=advice)


def _decode(content: dict[str, Any]) -> RunState:
    fields = {key: name for name, key in _KEYS.items()}
    state = RunState(**{fields.get(key, key): value for key, value in content.items()})
    for name in ("step", "world_size", "skipped", "skipped_in_row"):
        if type(value := getattr(state, name)) is not int or value < 0:
            raise ValueError(f"{name} is {value!r}")
    if state.phase not in get_args(Phase) or not isinstance(state.loader, dict):
        raise ValueError(f"phase is {state.phase!r}, loader is {state.loader!r}")
    return state
