"""What a run reports to people and to batch scripts: lines, rows, the status file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from data_pipeline.outputs import report_lost_outputs
from electra_scale.data.loader import Loader
from electra_scale.data.store import Store
from electra_scale.monitor.progress import Progress
from electra_scale.monitor.trackers import Tracker
from electra_scale.monitor.writer import RunWriter
from electra_scale.recipe.recipe import Recipe
from electra_scale.recipe.resuming import settings_of
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.engine.world import World
from electra_scale.train.lifecycle.status import State, Status, write_status


class Reporter:
    """One rank's part of it: the main rank has the writer of rows and the progress bar, once it is :meth:`open`.

    ``owned``: whether the run folder is still this start's.
    """

    def __init__(self, folder: RunFolder, world: World, total_steps: int) -> None:
        self.folder = folder
        self.rank = world.rank
        self.main = world.main
        self.total_steps = total_steps
        self._writer: RunWriter | None = None
        self._progress: Progress | None = None
        self._tracker: Tracker | None = None
        self._state: State = "running"
        self._saved_step = 0
        self.owned: Callable[[], bool] = lambda: True
        self._early: list[str] = []

    def open(self, step: int, last_row: int, recipe: Recipe | None = None) -> None:
        """The run is at ``step``; rows after ``last_row`` are dropped, since they are written again.

        ``recipe`` says whether the rows go to a tracker too.
        """
        if self.main:
            kind = None if recipe is None else recipe.logging.tracker
            if kind is not None and recipe is not None:
                self._tracker = Tracker(kind, self.folder.path, settings_of(recipe), last_row, self.log_of_rank)
            self._writer = RunWriter(self.folder.path, last_row)
            for line in self._early:
                self._writer.line(line)
            self._early.clear()
            self._progress = Progress(self.total_steps, step, self._writer)
            report_lost_outputs(self.log)

    def close(self) -> None:
        if self.main:
            report_lost_outputs(self.folder.append_to_log)
        if self._tracker is not None:
            self._tracker.close(self._state if self._state in ("finished", "stopped") else "failed")
            self._tracker = None
        progress, writer = self._progress, self._writer
        # A thread may still have a line, of a copy to a bucket for instance: it is appended to the log.
        self._progress = self._writer = None
        if progress is not None:
            progress.close()
        if writer is not None:
            writer.close()

    def log(self, text: str) -> None:
        """A line that the main rank alone prints, and logs once the run is open."""
        if self._progress is not None:
            self._progress.log(text)
        elif self.main:
            print(text, flush=True)
            self._early.append(text)

    def log_of_rank(self, text: str) -> None:
        """A line about this rank, from any thread and at any time."""
        if self._progress is not None:
            self._progress.log(text)
        elif not self.main:
            self.folder.append_to_log(f"rank {self.rank}: {text}")
        else:
            self.folder.append_to_log(text)
            print(text, flush=True)

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        if self._progress is not None:
            self._progress.advance(step)

    def row(self, step: int, phase: str, metrics: Mapping[str, float]) -> None:
        """Write the row of a step, on the main rank."""
        if self._writer is not None:
            self._writer.metrics(step, phase, metrics)
        if self._tracker is not None:
            self._tracker.row(step, phase, metrics)

    def show(self, phase: str, metrics: Mapping[str, float]) -> None:
        """Show the newest values beside the progress."""
        if self._progress is not None:
            self._progress.report(phase, metrics)

    def flush(self) -> None:
        """Put all rows and lines on disk."""
        if self._writer is not None:
            self._writer.flush()

    def status(self, state: State, step: int, reason: str = "") -> None:
        """Replace the status file; ``step`` is that of the newest checkpoint."""
        self._saved_step = step
        self._state = state
        if self.main:
            write_status(self.folder.path, Status(state, step, self.total_steps, reason))

    def failed(self, sentence: str) -> None:
        """From any thread, just before the process ends: another rank has failed, and this one does not come back."""
        self.folder.append_to_log(f"ending: {sentence}" if self.main else f"rank {self.rank}: ending: {sentence}")
        if self.main:
            write_status(self.folder.path, Status("failed", self._saved_step, self.total_steps, sentence))

    def ended_at_once(self, reason: str) -> None:
        """From any thread, just before the process ends because it was asked to."""
        self.folder.append_to_log(reason if self.main else f"rank {self.rank}: {reason}")
        if self.main:
            write_status(self.folder.path, Status("stopped", self._saved_step, self.total_steps, reason))

    def stuck(self, sentence: str) -> None:
        """From the watchdog of any rank: the main rank may be the one that is missing.

        Another start may own the run folder by then, and its status is not this one's.
        """
        if not self.owned():
            return
        self.folder.path.mkdir(parents=True, exist_ok=True)
        self.folder.append_to_log(f"rank {self.rank}: {sentence}")
        write_status(self.folder.path, Status("failed", self._saved_step, self.total_steps, sentence))

    def last_good_checkpoint(self) -> str:
        """A clause that names the checkpoint to go back to when the weights have become bad."""
        folder = self.folder.checkpoints
        tags = checkpoint.complete_tags(folder)
        if not tags:
            return "there is no checkpoint yet"
        # One that was saved while steps were skipped has the weights that made them so.
        good = [tag for tag in tags if checkpoint.read_state(folder, tag).skipped_in_row == 0]
        return f"the last good checkpoint is {folder / (good or tags)[-1]}"


def headline(recipe: Recipe, world: World, micro: int, accumulation: int, step: int, samples: int) -> str:
    """The first line of a start, at ``step``; ``samples`` of an epoch."""
    return (
        f"{f'resuming from step {step}' if step else 'starting'}: {recipe.total_steps} steps of "
        f"{recipe.batch.global_batch} x {recipe.data.sequence_length} on {world.size} ranks "
        f"(micro-batch {micro}, accumulation {accumulation}, {world.device.type}), "
        f"{recipe.corruption.label if recipe.task.detects else 'masked prediction alone'}, "
        f"{samples:,} samples an epoch"
    )


def cache_lines(store: Store, loader: Loader, world: World, prefetch_shards: int) -> list[str]:
    """Where shards are cached, and a warning if the cache is too small; nothing for a store without a cache."""
    cache = store.cache
    if cache is None:
        return []
    lines = [f"shards of {store.url} are cached in {cache.folder}, {cache.limit / 1e9:.3g} GB at most"]
    needed = loader.working_set(world.nodes, prefetch_shards * world.local_size)
    if needed > cache.limit:
        lines.append(
            f"warning: this node reads from about {needed / 1e9:.3g} GB of shards at once, which the cache cannot "
            "hold: shards will be fetched again and again; raise data.cache.limit_gb, or lower data.shuffle_window"
        )
    return lines
