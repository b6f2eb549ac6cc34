"""A run's copy in an object store or another folder, laid out like the run folder itself."""

from __future__ import annotations

from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from data_pipeline.places.place import Place
from electra_scale.train.checkpoint import checksums
from electra_scale.train.checkpoint.owner import Ownership
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.checkpoint.state import STATE, is_tag, superfluous

_PREFIX = "checkpoints"
_FILES = (
    "recipe.yaml",
    "deepspeed.json",
    "versions.json",
    "data.json",
    "log.txt",
    "metrics.jsonl",
    "changes.jsonl",
    "tracker.json",
    "hardware.json",
)
_FOLDERS = ("tokenizer", "tensorboard")


class RemoteRun:
    """The copy. A checkpoint in it is complete once its state file is there, which is written last and removed first.

    Every method raises UserError in one line where the place does not do what it is asked, after bounded retries.
    ``owner`` is this start's hold on the place; who only reads needs none.
    """

    def __init__(self, place: Place, owner: Ownership | None = None) -> None:
        self.place = place
        self.owner = owner
        self._sent: dict[str, tuple[int, int]] = {}

    @property
    def url(self) -> str:
        return self.place.url

    def hold(self) -> None:
        """Raise UserError unless this start owns the place, which it tries again to become where it could not yet."""
        if self.owner is not None:
            self.owner.claim()
            self.owner.confirm()

    def tags(self) -> list[str]:
        """Names of the complete checkpoints, oldest first."""
        return sorted(tag for tag, names in self._files().items() if STATE in names)

    def put_checkpoint(self, folder: Path) -> None:
        """Copy a whole checkpoint; raises OSError, or ValueError, if it is removed meanwhile."""
        tag, sums = folder.name, checksums.read_list(folder)
        self.hold()
        # A copy that is being replaced must not look complete while it has files of both.
        self.place.delete(f"{_PREFIX}/{tag}/{STATE}")
        for name in [*sorted(sums.keys() - {STATE}), checksums.LIST]:
            self.place.put_file(f"{_PREFIX}/{tag}/{name}", folder / name)
        # The upload may have taken hours.
        self.hold()
        self.place.put_file(f"{_PREFIX}/{tag}/{STATE}", folder / STATE)

    def fetch_checkpoint(self, tag: str, folder: Path) -> None:
        """Copy a checkpoint to ``folder``, its state file last, each file verified; UserError if one is damaged."""
        try:
            content = self.place.read(f"{_PREFIX}/{tag}/{checksums.LIST}")
            sums = checksums.decode(content)
        except ValueError as error:
            raise UserError(f"{self.url}/{_PREFIX}/{tag} is damaged: {error}") from error
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(sums.keys() - {STATE}):
            (folder / name).touch()
            self.place.fetch(f"{_PREFIX}/{tag}/{name}", folder / name)
            self._refuse_damaged(tag, checksums.file_problem(folder / name, sums[name]))
        checksums.sums_of(folder, sums.keys() - {STATE})
        state = self.place.read(f"{_PREFIX}/{tag}/{STATE}")
        if checksums.sum_of_bytes(state) != sums.get(STATE):
            self._refuse_damaged(tag, f"the checksum of {STATE} is wrong")
        write_bytes(folder / checksums.LIST, content)
        write_bytes(folder / STATE, state)

    def put_run_files(self, run: RunFolder) -> None:
        """Copy what a run folder has besides checkpoints, as far as it has changed since the last call."""
        self.hold()
        for name in _names(run):
            path = run.path / name
            status = path.stat()
            if self._sent.get(name) != (status.st_size, status.st_mtime_ns):
                # Read as a whole first: some of these files grow while they are sent.
                self.place.put(name, path.read_bytes())
                self._sent[name] = (status.st_size, status.st_mtime_ns)

    def fetch_run_files(self, run: RunFolder) -> None:
        """Copy back what :meth:`put_run_files` copied, over what is there."""
        for entry in list(self.place.list()):
            if entry.name in _FILES or entry.name.startswith(tuple(f"{folder}/" for folder in _FOLDERS)):
                target = run.path / entry.name
                target.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(target, self.place.read(entry.name))

    def prune(self, keep: int, keep_every: int) -> None:
        """Remove what :func:`checkpoint.prune` would, and what an upload that was cut short left before the newest."""
        self.hold()
        files = self._files()
        complete = sorted(tag for tag, names in files.items() if STATE in names)
        superseded = [tag for tag in files if tag not in complete and complete and tag < complete[-1]]
        for tag in [*superfluous(complete, keep, keep_every), *superseded]:
            for name in sorted(files[tag], key=lambda name: (name != STATE, name)):
                self.place.delete(f"{_PREFIX}/{tag}/{name}")

    def _files(self) -> dict[str, list[str]]:
        """Files of each checkpoint, whole or not."""
        found: dict[str, list[str]] = {}
        for entry in self.place.list(f"{_PREFIX}/"):
            _, tag, *rest = entry.name.split("/")
            if is_tag(tag) and rest:
                found.setdefault(tag, []).append("/".join(rest))
        return found

    def _refuse_damaged(self, tag: str, reason: str | None) -> None:
        if reason is not None:
            raise UserError(f"{self.url}/{_PREFIX}/{tag} is damaged: {reason}")


def _names(run: RunFolder) -> list[str]:
    """Names of a run's own files."""
    inside = (path for folder in _FOLDERS for path in sorted((run.path / folder).rglob("*")))
    own = (run.path / name for name in _FILES)
    return [path.relative_to(run.path).as_posix() for path in (*inside, *own) if path.is_file()]
