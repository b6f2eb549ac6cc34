"""What a run does with its checkpoints: find the one to go on from, load it, save new ones, have them copied."""

from __future__ import annotations

from collections.abc import Callable

import torch

from data_pipeline.places.open import open_place
from electra_scale.recipe.checkpoint import CheckpointConfig
from electra_scale.train.checkpoint import resume
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.remote_run import RemoteRun
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.checkpoint.state import RunState, tag_of
from electra_scale.train.checkpoint.upload import Uploader
from electra_scale.train.engine.engine import Engine
from electra_scale.train.engine.world import World

_LOOK_SECONDS = 5.0
"""Between two moments at which ranks that wait for a copy hear of each other."""


class Checkpointer:
    """One rank's part of it; every rank calls every method alike. ``say`` takes a line for people, from any thread."""

    def __init__(self, run: RunFolder, settings: CheckpointConfig, world: World, say: Callable[[str], None]) -> None:
        self.run = run
        self.folder = run.checkpoints
        self.settings = settings
        self.world = world
        self.say = say
        self.remote: RemoteRun | None = None
        self.uploader: Uploader | None = None
        if settings.upload is not None and world.main:
            self.remote = RemoteRun(open_place(settings.upload))

    def refuse_to_overwrite(self) -> None:
        """Raise UserError if a run has begun in the run folder, or has a copy at the remote place."""
        resume.refuse_to_overwrite(self.run, self.remote, self.world)

    def newest(self) -> RunState | None:
        """State of the checkpoint to go on from, None if there is none; see :func:`resume.newest_whole`."""
        return resume.newest_whole(self.run, self.remote, self.world, self.say)

    def begin(self, step: int) -> None:
        """The run goes on from ``step``: what is not copied yet is copied from now on, until :meth:`close`."""
        if self.remote is not None:
            self.uploader = Uploader(self.run, self.remote, self.settings, step, self.say)

    def load(self, engine: Engine, state: RunState) -> None:
        """Load weights and optimizer of a checkpoint, whatever number of ranks has saved it."""
        tag, saved_by = tag_of(state.step), state.world_size
        if saved_by != self.world.size and self.world.main:
            self.say(f"checkpoint {tag} was written by {saved_by} ranks and is converted for {self.world.size}")
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

    def wait_for_copy(self, at_work: Callable[[], None]) -> None:
        """Wait, all ranks together, for the last copy; ``at_work`` is called every few seconds meanwhile.

        A launcher may end whoever is left some time after the first rank.
        """
        if self.settings.upload is None:
            return
        busy = torch.ones(1, device=self.world.device)
        while busy.item():
            at_work()
            busy.fill_(self.uploader is not None and not self.uploader.close(_LOOK_SECONDS))
            self.world.maximum(busy)

    def close(self) -> None:
        """Wait for the last copy, on this rank alone."""
        if self.uploader is not None:
            self.uploader.close()
