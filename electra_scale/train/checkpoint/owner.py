"""Who owns a run folder, or its copy: one start of a run at a time, by a record that its main rank keeps alive."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.places.json_file import decode_record, encode_record
from data_pipeline.places.place import Missing, Place
from electra_scale.cluster.process import Process, this_process
from electra_scale.cluster.slurm import start_of_job

RECORD = "owner.json"
HEARTBEAT = "owner.heartbeat"

LEASE_SECONDS = 60.0
"""Without a heartbeat for so long, by the newcomer's clock, an owner that nobody can look at counts as gone."""

_BEAT_SECONDS = 10.0
_LOOK_SECONDS = 0.5


class InUse(UserError):
    """Another start of a run owns the place, and it is not known to be gone."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """``RUN/owner.json``. ``token`` is drawn for each start; ``job`` and ``restart`` are SLURM's, if there is a job."""

    token: str
    process: Process
    job: str = ""
    restart: int = 0
    version: int = 1

    def words(self) -> str:
        """For people: which process, where, since when."""
        job = f", SLURM job {self.job}" if self.job else ""
        return f"process {self.process.pid} on {self.process.host}{job}, since {self.process.since}"

    def gone(self) -> bool | None:
        """Whether its process has ended, None if that can't be seen from here."""
        state = self.process.state()
        here = start_of_job(os.environ)
        if here is not None and here[0] == self.job and here[1] > self.restart:
            # SLURM starts a job again when it has ended the start before, whose last process may still be ending.
            return None if state == "alive" else True
        return None if state == "unknown" else state == "gone"


def new_token() -> str:
    """What tells this start of a run from all others."""
    return uuid.uuid4().hex[:12]


class Ownership:
    """The hold of one start on a place. The main rank calls :meth:`claim`; the others know the token only.

    An owner that is suspended may be taken for gone, and wake up. So it confirms that it still owns the place before it
    makes anything visible there, and a thread looks every few seconds.

    Args:
        place: the run folder, or its copy.
        token: of this start.
        cure: what a user can do besides ending the other process, as the end of a sentence.
        log: takes a line for people.
        lost: called once, from another thread, when the place has been taken by another start; ``loss`` says by whom.
    """

    def __init__(
        self,
        place: Place,
        token: str,
        cure: str,
        log: Callable[[str], None],
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.place = place
        self.token = token
        self._cure = cure
        self._log = log
        self._lost = lost
        self.loss: InUse | None = None
        self._record = b""
        self._made_folder = False
        self._reachable = True
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def claim(self) -> None:
        """Become the owner, if need be after a wait of up to ``LEASE_SECONDS``.

        Raises:
            InUse: another start owns the place.
            UserError: the place can't be written.
        """
        if self._thread is not None:
            return
        job, restart = start_of_job(os.environ) or ("", 0)
        record = encode_record(Owner(self.token, this_process(), job, restart))
        folder = self._folder()
        self._made_folder = folder is not None and not folder.exists()
        while not self.place.put_new(RECORD, record):
            found = self._read()
            if _token_of(found) == self.token:
                # Written by a request whose answer was lost.
                break
            if found is not None and self._is_gone(found) and self._read() == found:
                self._log(f"{self.place.url} was owned by {_words(found)}: this start takes it over")
                self.place.delete(RECORD)
        self._record = record
        self._thread = threading.Thread(target=self._keep, name="owner", daemon=True)
        self._thread.start()

    def confirm(self) -> None:
        """Raise InUse if another start has taken the place, UserError if the place can't be asked."""
        found = self._read()
        if found is None and self._record:
            # Somebody has removed the record, and nobody has taken the place.
            if self.place.put_new(RECORD, self._record):
                return
            found = self._read()
        if _token_of(found) != self.token:
            raise self._taken(found)

    def owned(self) -> bool:
        """Whether this start owns the place, also where the place can't be asked."""
        try:
            self.confirm()
        except InUse:
            return False
        except UserError:
            return True
        return True

    def visible(self, seconds: float) -> bool:
        """Whether this rank sees the record that the main rank has written, within some seconds."""
        deadline = time.monotonic() + seconds
        while _token_of(self._read()) != self.token:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def release(self) -> None:
        """Give the place up, at an orderly end; costs nothing but time where the place does not answer."""
        self._closed.set()
        if self._thread is None:
            return
        self._thread.join(_BEAT_SECONDS / 2)
        self._thread = None
        if not self._reachable and self._folder() is None:
            # A bucket that does not answer would be asked again and again.
            return
        with contextlib.suppress(UserError):
            if self._read() == self._record:
                self.place.delete(HEARTBEAT)
                self.place.delete(RECORD)
        folder = self._folder()
        if self._made_folder and folder is not None:
            # Of a start that was refused; a folder that holds anything stays.
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _keep(self) -> None:
        beats = 0
        while not self._closed.wait(_BEAT_SECONDS):
            beats += 1
            try:
                self.confirm()
                self.place.put(HEARTBEAT, f"{self.token} {beats}\n".encode())
                self._reachable = True
            except InUse as error:
                self.loss = error
                self._lost()
                return
            except UserError:
                # Whoever makes something visible meanwhile confirms first, and reports it.
                self._reachable = False

    def _is_gone(self, found: bytes) -> bool:
        """Whether the owner by a record is gone; False too when the record changes meanwhile. Raises InUse."""
        owner = _decode(found)
        gone = None if owner is None else owner.gone()
        if gone is None:
            gone = self._is_silent(found, owner)
        if gone is False:
            end = "end it first"
            if owner is not None:
                end += f" (kill {owner.process.pid} on {owner.process.host}: it saves and stops)"
            raise InUse(f"{self.place.url} is in use by {_words(found)}: {end}, or {self._cure}")
        return bool(gone)

    def _is_silent(self, found: bytes, owner: Owner | None) -> bool | None:
        """Watch an owner that can't be seen for a lease, or until it is gone; None when its record changes."""
        began, beat, said = time.monotonic(), self._beat(), False
        while time.monotonic() - began < LEASE_SECONDS:
            time.sleep(_LOOK_SECONDS)
            if self._read() != found:
                return None
            if self._beat() != beat:
                return False
            if owner is not None and owner.gone():
                return True
            if not said:
                # Not of an owner that had been killed, and was on its way out.
                said = True
                self._log(
                    f"{self.place.url} is owned by {_words(found)}, which is suspended or cannot be seen from here: "
                    f"waiting up to {LEASE_SECONDS:.0f} s for a sign of life; if it is gone, delete "
                    f"{self.place.url}/{RECORD} to end the wait"
                )
        return True

    def _beat(self) -> bytes:
        try:
            return self.place.read(HEARTBEAT)
        except Missing:
            return b""

    def _read(self) -> bytes | None:
        try:
            return self.place.read(RECORD)
        except Missing:
            return None

    def _taken(self, found: bytes | None) -> InUse:
        return InUse(
            f"{self.place.url} has been taken over by {_words(found)}: this start was taken for gone, ends here and "
            f"has written no checkpoint since; let that process run, or {self._cure}"
        )

    def _folder(self) -> Path | None:
        path = self.place.local(RECORD)
        return None if path is None else path.parent


def free(place: Place) -> bool:
    """Whether nobody but this process owns a place, as far as can be seen at once."""
    try:
        found = place.read(RECORD)
    except Missing:
        return True
    owner, own = _decode(found), this_process()
    if owner is None:
        return False
    return owner.gone() is True or dataclasses.replace(own, since=owner.process.since) == owner.process


def _decode(found: bytes | None) -> Owner | None:
    """The owner by a record, None if there is none or it can't be read."""
    try:
        return None if found is None else decode_record(found, RECORD, _owner, advice="")
    except UserError:
        return None


def _owner(content: dict[str, Any]) -> Owner:
    process = Process(**content["process"])
    owner = Owner(**{**content, "process": process})
    texts = (owner.token, owner.job, process.host, process.boot, process.namespace, process.since)
    if not all(isinstance(text, str) for text in texts) or not owner.token:
        raise ValueError("a text is missing")
    if not all(isinstance(number, int) for number in (owner.restart, process.started, process.pid)):
        raise ValueError("a number is missing")
    if not 0 < process.pid < 1 << 31:
        raise ValueError(f"no process has the number {process.pid}")
    return owner


def _words(found: bytes | None) -> str:
    owner = _decode(found)
    return "an unknown process" if owner is None else owner.words()


def _token_of(found: bytes | None) -> str:
    owner = _decode(found)
    return "" if owner is None else owner.token
