"""Which checkpoint a run resumes from: the newest whole one, here or in the run's remote copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial

from data_pipeline.errors import UserError
from electra_scale.cluster.ranks import Ranks
from electra_scale.train.checkpoint import checksums
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.owner import new_token
from electra_scale.train.checkpoint.remote_run import RemoteRun
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.checkpoint.state import RunState


def refuse_to_overwrite(folder: RunFolder, remote: RemoteRun | None, ranks: Ranks) -> None:
    """Raise UserError if a run has begun in the folder or has a copy at its remote place."""
    folder.refuse_to_overwrite()

    def look() -> None:
        if remote is not None and remote.tags():
            raise UserError(
                f"{remote.url} already holds checkpoints of a run; resume it with --resume auto, or choose another "
                "checkpoint.upload"
            )

    ranks.from_main(look)


def newest_whole(
    folder: RunFolder, remote: RemoteRun | None, ranks: Ranks, log: Callable[[str], None]
) -> RunState | None:
    """State of the checkpoint to resume from, the same on every rank, which all call this; None if there is none.

    Ranks share the reading of a checkpoint's files. A damaged one is set aside and the one before is taken, with a line
    to ``log``. One that is only in the remote copy is fetched first. ``remote`` and ``log`` are the main rank's.

    Raises:
        UserError: there are checkpoints but none that can be used, or none here and the remote copy can't be asked.
    """
    local, far = ranks.from_main(partial(_tags, folder, remote, log))
    damage: dict[str, str] = {}
    for tag in sorted({*local, *far}, reverse=True):
        reason: str | None = None
        if tag in local:
            found = ranks.gather(checksums.problem(folder.checkpoints / tag, ranks.rank, ranks.size))
            reason = next((each for each in found if each is not None), None)
        if tag in far and (reason is not None or tag not in local):
            reason = ranks.from_main(partial(_fetch, folder, remote, tag, local, reason, log))
        if reason is None:
            ranks.from_main(partial(_settle, folder, tag, damage, log))
            return ranks.from_main(partial(checkpoint.read_state, folder.checkpoints, tag))
        damage[tag] = reason
    if damage:
        reasons = "; ".join(f"{tag}: {reason}" for tag, reason in damage.items())
        raise UserError(
            f"no checkpoint of {folder.path} can be used ({reasons}): copy one back from a backup, or start again with "
            "another --run_dir"
        )
    return None


def _tags(folder: RunFolder, remote: RemoteRun | None, log: Callable[[str], None]) -> tuple[list[str], list[str]]:
    """Complete checkpoints here and there."""
    local = checkpoint.complete_tags(folder.checkpoints)
    if remote is None:
        return local, []
    try:
        return local, remote.tags()
    except UserError as error:
        if not local:
            raise UserError(f"cannot see whether {remote.url} has a copy of this run: {error}") from error
        log(f"resuming without checking {remote.url} for newer checkpoints: {error}")
        return local, []


def _fetch(
    folder: RunFolder,
    remote: RemoteRun | None,
    tag: str,
    local: list[str],
    reason: str | None,
    log: Callable[[str], None],
) -> str | None:
    """Get a checkpoint that is not here, or not whole for ``reason``; why it could not be had, None if it could."""
    assert remote is not None
    unfinished = checkpoint.unfinished_of(tag, new_token())
    target = folder.checkpoints / unfinished
    if reason is not None:
        kept = checkpoint.set_aside(folder.checkpoints, tag).name
        log(f"checkpoint {tag} is damaged ({reason}), kept as {kept}; its copy is fetched")
    try:
        if not local or local[-1] < tag:
            # Before the checkpoint, without which none of it counts.
            remote.fetch_run_files(folder)
        checkpoint.discard_unfinished(folder.checkpoints)
        remote.fetch_checkpoint(tag, target)
        checkpoint.place(folder.checkpoints, unfinished, tag)
    except (UserError, OSError) as error:
        shutil.rmtree(target, ignore_errors=True)
        return str(error)
    log(f"checkpoint {tag} was fetched from {remote.url}")
    return None


def _settle(folder: RunFolder, tag: str, damage: dict[str, str], log: Callable[[str], None]) -> None:
    """Make ``tag`` the newest checkpoint: nothing may take later ones for whole, or write into them."""
    for each, reason in damage.items():
        kept = ""
        if (folder.checkpoints / each).is_dir():
            kept = f", kept as {checkpoint.set_aside(folder.checkpoints, each).name}"
        log(f"checkpoint {each} cannot be used ({reason}){kept}; the one before is taken")
    if damage:
        checkpoint.name_latest(folder.checkpoints, tag)
