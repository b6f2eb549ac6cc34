"""What a run does with its checkpoints: find the one to resume from, load it, save new ones, have them copied."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from data_pipeline.errors import OneRankError, UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.open import open_place
from electra_scale.data.loader import Loader
from electra_scale.data.store import Store
from electra_scale.recipe import resuming
from electra_scale.recipe.checkpoint import CheckpointConfig
from electra_scale.recipe.resuming import Change, Settings
from electra_scale.train.checkpoint import resume
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.checksums import Sums
from electra_scale.train.checkpoint.full_disk import writing
from electra_scale.train.checkpoint.owner import InUse, Ownership, new_token
from electra_scale.train.checkpoint.remote_run import RemoteRun
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.checkpoint.state import RunState, tag_of
from electra_scale.train.checkpoint.upload import Uploader
from electra_scale.train.engine import pickles
from electra_scale.train.engine.engine import Engine
from electra_scale.train.engine.world import World

_POLL_SECONDS = 5.0
"""Between two moments at which ranks that wait for a copy exchange whether it is made."""

_APPEARS_SECONDS = 30.0
"""That a network file system may take to show a file that another host has just written."""


class Checkpointer:
    """One rank's part of it; every rank calls every method alike.

    ``log`` takes a line for people, and ``lost`` is called when another start has taken the run, both from any thread.
    """

    def __init__(
        self,
        run: RunFolder,
        settings: CheckpointConfig,
        world: World,
        log: Callable[[str], None],
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.run = run
        self.folder = run.checkpoints
        self.settings = settings
        self.world = world
        self.log = log
        self.lost = lost
        self.remote: RemoteRun | None = None
        self.uploader: Uploader | None = None
        token = world.from_main(self._open_copy)
        cure = "choose another folder with --run_dir"
        self.owner = Ownership(FolderPlace(run.path), token, cure, print_line, lost)

    def _open_copy(self) -> str:
        """The main rank opens the copy, if there is to be one; the token of this start."""
        token = new_token()
        if self.settings.upload is not None:
            place, cure = open_place(self.settings.upload), "choose another checkpoint.upload"
            self.remote = RemoteRun(place, Ownership(place, token, cure, self.log, self.lost))
        return token

    def claim(self) -> None:
        """Become the owner of the run folder and of its copy, before anything of them is changed.

        Raises:
            InUse: another start of a run owns one of them.
            UserError: the folder can't be written, or is not the same on all ranks.
        """
        self.world.from_main(self._claim)
        hosts = self.world.gather("" if self.owner.visible(_APPEARS_SECONDS) else socket.gethostname())
        blind = [f"rank {rank} on {host}" for rank, host in enumerate(hosts) if host]
        if blind:
            raise UserError(
                f"run folder {self.run.path} is not shared: {', '.join(blind[:8])} cannot see what the main rank has "
                "written there; choose a --run_dir on storage that all hosts share, by the same path"
            )

    def _claim(self) -> None:
        self.owner.claim()
        if self.remote is not None:
            try:
                self.remote.hold()
            except InUse:
                raise
            except UserError as error:
                # The uploader tries again before each copy.
                print_line(f"starting without checking who else writes to {self.remote.url}: {error}")

    def confirm(self) -> None:
        """Raise InUse if another start has taken the run folder or its copy; the main rank calls it."""
        self.owner.confirm()
        if self.remote is not None and self.remote.owner is not None and self.remote.owner.loss is not None:
            raise self.remote.owner.loss

    def refuse_if_taken(self) -> None:
        """As :meth:`confirm`, where the folder can be asked."""
        try:
            self.confirm()
        except InUse:
            raise
        except UserError:
            return

    def release(self) -> None:
        """Give folder and copy up; must not need other ranks."""
        if self.remote is not None and self.remote.owner is not None:
            self.remote.owner.release()
        self.owner.release()

    def starting_state(self, resumes: bool, store: Store, loader: Loader) -> RunState:
        """What a start of the run begins with: the newest checkpoint's state if it ``resumes`` and there is one.

        Raises:
            UserError: the run is not to be resumed although it has begun, its data or tokenizer are not those of
                ``store`` and ``loader``, no checkpoint can be used, or files of the newest may run code.
        """
        new = RunState(0, "generator_warmup", self.world.size, store.manifest.tokenizer.fingerprint, {})
        if not resumes:
            resume.refuse_to_overwrite(self.run, self.remote, self.world)
            return new
        state = resume.newest_whole(self.run, self.remote, self.world, self.log)
        # A start that failed before its first step may have described another store.
        if state is not None or self.run.holds_a_run():
            self.run.check_tokenizer(store)
        if state is None:
            return new
        pickles.refuse_unsafe(self.folder / tag_of(state.step), self.world)
        # Where the recipe of the run is there, changes() compares them.
        step = loader.check(state.loader, masks_may_change=self.run.recipe.exists())
        if step != state.step:
            raise UserError(
                f"the checkpoint at step {state.step} of {self.run.path} holds the data position of step {step}; "
                f"remove {self.folder / tag_of(state.step)}"
            )
        return state

    def changes(self, state: RunState, now: Settings) -> tuple[list[Change], list[str]]:
        """What is changed since the run was last started, and lines for people; nothing for a run that is new.

        Raises UserError, naming both values, for what may not change.
        """
        if state.step == 0:
            return [], []
        before = self.world.from_main(self.run.settings)
        if before is None:
            return [], [f"{self.run.recipe} is missing: what is changed since the checkpoint is not compared"]
        found = resuming.changes(before, now, state.phase, state.step)
        lines = [change.line(state.step) for change in found]
        rate = resuming.rate_line(before.recipe, now.recipe, state.step)
        return [change for change in found if change.rule == "applied"], [*lines, *([rate] if rate else [])]

    def begin(self, step: int) -> None:
        """The run starts from ``step``: what is not copied yet is copied from now on, until :meth:`close`."""
        if self.remote is not None:
            self.uploader = Uploader(self.run, self.remote, self.settings, step, self.log)

    def load(self, engine: Engine, state: RunState) -> list[str]:
        """Load weights and optimizer of a checkpoint, whatever number of ranks has saved it; lines for people."""
        tag, saved_by = tag_of(state.step), state.world_size
        if saved_by != self.world.size and self.world.main:
            ranks = "1 rank" if saved_by == 1 else f"{saved_by} ranks"
            self.log(f"checkpoint {tag} was written by {ranks} and is converted for {self.world.size}")
        return engine.load(self.folder, tag, saved_by)

    def unfinished(self, step: int) -> Path:
        """The folder that the checkpoint of a step is written into; it holds what this start has written, only."""
        return self.folder / checkpoint.unfinished_of(tag_of(step), self.owner.token)

    def save(self, engine: Engine, state: RunState) -> None:
        """Write a checkpoint; it counts once every rank's part and its checksum are on disk.

        Raises InUse on every rank, and nothing counts, where another start has taken the run meanwhile.
        """
        sums = self.world.gather(engine.save(self.folder, self.unfinished(state.step).name))
        self.world.from_main(partial(self._finish, state, {name: one for part in sums for name, one in part.items()}))

    def _finish(self, state: RunState, sums: Sums) -> None:
        self.owner.confirm()
        unfinished, tag = self.unfinished(state.step), tag_of(state.step)
        try:
            with writing(self.folder / tag):
                checkpoint.place(self.folder, unfinished.name, tag)
                checkpoint.finish(
                    self.folder,
                    state,
                    self.settings.keep,
                    keep_every=self.settings.keep_every,
                    sums=sums,
                    spared=self.uploader.reading if self.uploader is not None else (),
                )
        except OneRankError as error:
            # All ranks learn of it.
            raise UserError(str(error)) from error
        if self.uploader is not None:
            self.uploader.submit()

    def rewrite_state(self, state: RunState) -> None:
        """Replace the state of a checkpoint; raises InUse on every rank where another start has taken the run."""

        def rewrite() -> None:
            self.owner.confirm()
            checkpoint.rewrite_state(self.folder, state)

        self.world.from_main(rewrite)

    def wait_for_copy(self, working: Callable[[], None]) -> None:
        """Wait, all ranks together, for the last copy; ``working`` is called every few seconds meanwhile.

        Together, because a launcher may end the ranks that are left some time after the first one has ended.
        """
        if self.settings.upload is None:
            return
        busy = torch.ones(1, device=self.world.device)
        while busy.item():
            working()
            busy.fill_(self.uploader is not None and not self.uploader.close(_POLL_SECONDS))
            self.world.maximum(busy)

    def close(self) -> None:
        """Wait for the last copy, on this rank alone."""
        if self.uploader is not None:
            self.uploader.close()


def print_line(text: str) -> None:
    """A line for people from a start that may not write into the run folder yet."""
    print(text, flush=True)
