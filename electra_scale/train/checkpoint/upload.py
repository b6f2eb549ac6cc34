"""Copies of checkpoints, made in the background while the run trains."""

from __future__ import annotations

import threading
from collections.abc import Callable

from electra_scale.recipe.checkpoint import CheckpointConfig
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.remote_run import RemoteRun
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.checkpoint.state import step_of


class Uploader:
    """One thread that copies the newest checkpoint, and those that are kept forever, to a run's remote copy.

    Where saves come faster than uploads, those in between are left out. A failure costs a line and nothing else: the
    next save tries again, and so does :meth:`close`.

    Args:
        run, remote: from where to where.
        settings: what is kept; the same rule at both ends.
        from_step: where the run starts; remote checkpoints after it are replaced.
        log: takes a line for people, from any thread.
    """

    def __init__(
        self, run: RunFolder, remote: RemoteRun, settings: CheckpointConfig, from_step: int, log: Callable[[str], None]
    ) -> None:
        self.run = run
        self.remote = remote
        self.settings = settings
        self.log = log
        self._from_step = from_step
        self._done: set[str] | None = None
        self._reading: str | None = None
        self._failure: str | None = None
        self._asked = True
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self._thread.start()

    def submit(self) -> None:
        """There is a new checkpoint."""
        with self._changed:
            self._asked = True
            self._changed.notify()

    @property
    def reading(self) -> set[str]:
        """The checkpoint that is being read, which must not be pruned."""
        reading = self._reading
        return set() if reading is None else {reading}

    def close(self, seconds: float | None = None) -> bool:
        """Wait until the newest checkpoint is uploaded or has failed once more, and log it if it has.

        False if that has not happened within ``seconds``; then call it again.
        """
        with self._changed:
            if not self._closing:
                # One more attempt in any case: the one before may have failed.
                self._asked = self._closing = True
                self._changed.notify()
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        failure, self._failure = self._failure, None
        if failure is not None:
            self.log(
                f"warning: the last checkpoint is not in {self.remote.url}: {failure}; it is only in "
                f"{self.run.checkpoints}, and --resume auto uploads it when the place can be reached"
            )
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked)
                self._asked = False
                closing = self._closing
            self._upload_all()
            if closing:
                return

    def _upload_all(self) -> None:
        tag = ""
        try:
            if self._done is None:
                self._done = {tag for tag in self.remote.tags() if step_of(tag) <= self._from_step}
            for tag in self._wanted(self._done):
                self._reading = tag
                self.remote.put_run_files(self.run)
                self.remote.put_checkpoint(self.run.checkpoints / tag)
                self._done.add(tag)
            self.remote.prune(self.settings.keep, self.settings.keep_every)
            self._failure = None
        except Exception as error:  # of any kind: a thread that ended would copy nothing more, without a word
            if tag and tag not in checkpoint.complete_tags(self.run.checkpoints):
                # It was pruned meanwhile, so there is a newer one, which the save that wrote it submits.
                return
            self._failure = str(error)
            if not self._closing:
                self.log(
                    f"upload of {tag or 'checkpoints'} to {self.remote.url} failed and is tried again at the next "
                    f"save: {error}"
                )
        finally:
            self._reading = None

    def _wanted(self, done: set[str]) -> list[str]:
        """Local checkpoints that are to be copied, oldest first."""
        tags = checkpoint.complete_tags(self.run.checkpoints)
        every = self.settings.keep_every
        lasting = [tag for tag in tags[:-1] if every and step_of(tag) % every == 0]
        return [tag for tag in [*lasting, *tags[-1:]] if tag not in done]
