"""What a run does with its checkpoints: find the one to resume from, load it, save new ones, have them copied."""

from __future__ import annotations

from collections.abc import Callable

import torch

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from electra_scale.data.loader import Loader
from electra_scale.data.store import Store
from electra_scale.recipe.checkpoint import CheckpointConfig
from electra_scale.train.checkpoint import resume
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.remote_run import RemoteRun
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.checkpoint.state import RunState, tag_of
from electra_scale.train.checkpoint.upload import Uploader
from electra_scale.train.engine.engine import Engine
from electra_scale.train.engine.world import World

_POLL_SECONDS = 5.0
"""Between two moments at which ranks that wait for a copy exchange whether it is made."""


class Checkpointer:
    """One rank's part of it; every rank calls every method alike. ``log`` takes a line for people, from any thread."""

    def __init__(self, run: RunFolder, settings: CheckpointConfig, world: World, log: Callable[[str], None]) -> None:
        self.run = run
        self.folder = run.checkpoints
        self.settings = settings
        self.world = world
        self.log = log
        self.remote: RemoteRun | None = None
        self.uploader: Uploader | None = None
        if settings.upload is not None and world.main:
            self.remote = RemoteRun(open_place(settings.upload))

    def starting_state(self, resumes: bool, store: Store, loader: Loader) -> RunState:
        """What a start of the run begins with: the newest checkpoint's state if it ``resumes`` and there is one.

        Raises:
            UserError: the run is not to be resumed although it has begun, its data or tokenizer are not those of
                ``store`` and ``loader``, or no checkpoint can be used.
        """
        new = RunState(0, "generator_warmup", self.world.size, store.manifest.tokenizer.fingerprint, {})
        if not resumes:
            resume.refuse_to_overwrite(self.run, self.remote, self.world)
            return new
        state = resume.newest_whole(self.run, self.remote, self.world, self.log)
        self.run.check_tokenizer(store)
        if state is None:
            return new
        step = loader.check(state.loader)
        if step != state.step:
            raise UserError(
                f"the checkpoint at step {state.step} of {self.run.path} holds the data position of step {step}; "
                f"remove {self.folder / tag_of(state.step)}"
            )
        return state

    def begin(self, step: int) -> None:
        """The run starts from ``step``: what is not copied yet is copied from now on, until :meth:`close`."""
        if self.remote is not None:
            self.uploader = Uploader(self.run, self.remote, self.settings, step, self.log)

    def load(self, engine: Engine, state: RunState) -> None:
        """Load weights and optimizer of a checkpoint, whatever number of ranks has saved it."""
        tag, saved_by = tag_of(state.step), state.world_size
        if saved_by != self.world.size and self.world.main:
            ranks = "1 rank" if saved_by == 1 else f"{saved_by} ranks"
            self.log(f"checkpoint {tag} was written by {ranks} and is converted for {self.world.size}")
        engine.load(self.folder, tag, saved_by)

    def save(self, engine: Engine, state: RunState) -> None:
        """Write a checkpoint; it counts once every rank's part and its checksum are on disk."""
        sums = self.world.gather(engine.save(self.folder, tag_of(state.step)))
        if self.world.main:
            checkpoint.finish(
                self.folder,
                state,
                self.settings.keep,
                keep_every=self.settings.keep_every,
                sums={name: found for part in sums for name, found in part.items()},
                spared=self.uploader.reading if self.uploader is not None else (),
            )
            if self.uploader is not None:
                self.uploader.submit()
        self.world.barrier()

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
