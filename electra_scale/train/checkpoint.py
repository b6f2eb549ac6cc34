"""Which checkpoints a run has, and what each says about the run."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.atomic import write_bytes
from data_pipeline.errors import UserError

_STATE = "run_state.json"
_LATEST = "latest"
_TAG = re.compile(r"step-(\d{8})")


@dataclass
class RunState:
    """What a checkpoint knows besides weights and optimizer. ``step`` counts optimizer steps of both phases.

    ``skipped`` steps in all and ``skipped_in_row`` at the end were not finite. ``owed`` holds the metrics so far of the
    step's row, where a stop came before its evaluation was done.
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
    owed: dict[str, float] | None = None
    version: int = 1


def tag_of(step: int) -> str:
    """Name of the checkpoint folder of a step."""
    return f"step-{step:08d}"


def finish(folder: Path, state: RunState, keep: int) -> None:
    """Make a checkpoint visible once every rank has written its part, and remove the oldest beyond ``keep``.

    The state file is written last, so that a folder without one is known to be unfinished.
    """
    tag = tag_of(state.step)
    write_bytes(folder / tag / _STATE, json.dumps(asdict(state), indent=1).encode() + b"\n")
    write_bytes(folder / _LATEST, tag.encode() + b"\n")
    for old in complete_tags(folder)[:-keep]:
        # The state file goes first: half removed must not look finished.
        (folder / old / _STATE).unlink()
        shutil.rmtree(folder / old)


def discard_unfinished(folder: Path) -> None:
    """Remove what a killed save left behind."""
    for path in folder.glob("step-*"):
        if _TAG.fullmatch(path.name) and not (path / _STATE).is_file():
            shutil.rmtree(path)


def complete_tags(folder: Path) -> list[str]:
    """Names of the finished checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if _TAG.fullmatch(p.name) and (p / _STATE).is_file())


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
    path = folder / tag / _STATE
    try:
        content = json.loads(path.read_text())
        version = content.get("version", 1) if isinstance(content, dict) else 1
        state = RunState(**content) if version == 1 else None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"checkpoint state {path} cannot be read ({error}); remove the folder {folder / tag}"
        ) from error
    # Another release may have other fields; its checkpoint is not damaged.
    if state is None:
        raise UserError(f"checkpoint state {path} has version {version}, this program reads 1")
    return state
