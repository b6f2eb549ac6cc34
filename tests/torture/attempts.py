"""One run in many attempts, each ended by a kill of the plan, with what must hold after each."""

from __future__ import annotations

import re
import shutil
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_scale.train.checkpoint import state as checkpoint
from tests.support.fixtures.runs import ranks, run
from tests.torture.disk import SmallDisk
from tests.torture.launcher import Attempt, Launcher
from tests.torture.plan import ASKED, RANKS, Amount, Kill, Moment, draw
from tests.torture.view import RunView, began_at

CONVERTED_FILES = 350
"""About how many files a conversion of the tests' model has written before it is renamed."""

_POLL = 0.003
"""Seconds between looks; more often, they would take the cores from the ranks."""

_MORE_ATTEMPTS = 12
"""After the plan's, for moments that it has missed."""

_EVALUATED = "eval/generator_cross_entropy"
"""In the rows of steps after which held-out text is measured."""

_NAMES_THE_DISK = re.compile(r"^electra-scale: error: .*free some space", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What an attempt has come to. ``hit``: what it left shows that the kill came at its moment."""

    kill: Kill
    began: int | None
    rows: int
    kept: int
    hit: bool
    seconds: float

    def line(self, number: int) -> str:
        began = "before it resumed" if self.began is None else f"from step {self.began}"
        return (
            f"attempt {number}: {began} to {self.rows}, {self.kill.line()} ({'hit' if self.hit else 'missed'}); the "
            f"next one starts from {self.kept} [{self.seconds:.1f} s]"
        )


class Attempts:
    """The tortured run.

    Args:
        launcher: starts its attempts.
        view: of its run folder and its bucket.
        arguments: of each attempt.
        every: steps between checkpoints.
        straight: rows of the run that nobody disturbs.
        pace: seconds that each of its rows took.
        disk: what the run folder lies on, if it can be filled.
        outputs: an empty folder for what the attempts print.
    """

    def __init__(
        self,
        launcher: Launcher,
        view: RunView,
        arguments: list[str],
        every: int,
        straight: list[dict[str, Any]],
        pace: list[float],
        disk: SmallDisk | None,
        outputs: Path,
    ) -> None:
        self.launcher = launcher
        self.view = view
        self.arguments = arguments
        self.every = every
        self.straight = straight
        self.pace = pace
        self.disk = disk
        self.outputs = outputs
        self.outcomes: list[Outcome] = []
        self._expected = 0
        self._left_in_bucket: set[str] = set()
        self._strikes = {
            "steps": self._steps,
            "terminal": self._terminal,
            "save": self._save,
            "evaluation": self._evaluation,
            "start": self._start,
            "conversion": self._conversion,
            "upload": self._upload,
            "fetch": self._fetch,
            "full disk": self._full_disk,
            "second owner": self._second_owner,
        }

    def endure(self, kills: list[Kill], amount: Amount) -> None:
        """All kills of the plan, and again those that came at the wrong moment as long as none came at the right."""
        for kill in kills:
            self.one(kill)
        for _ in range(_MORE_ATTEMPTS):
            missed = self.missed()
            if not missed:
                break
            # With new steps between: a checkpoint is converted and uploaded but once.
            after_steps = self.outcomes[-1].kill.moment == "steps"
            self.one(draw(amount.seed, len(self.outcomes), missed[0] if after_steps else "steps", first=True))
        assert not self.missed(), f"no kill came at these moments: {self.missed()}\n{self.report()}"

    def missed(self) -> list[Moment]:
        """Moments that no kill has hit."""
        hit = {outcome.kill.moment for outcome in self.outcomes if outcome.hit}
        return sorted({outcome.kill.moment for outcome in self.outcomes} - hit)

    def report(self) -> str:
        """How many kills there were of each kind, and how many of them came at their moment."""
        lines = [f"{len(self.outcomes)} kills"]
        for kinds in ([each.kill.moment for each in self.outcomes], [each.kill.ending for each in self.outcomes]):
            hits = Counter(kind for kind, each in zip(kinds, self.outcomes, strict=True) if each.hit)
            lines.append(", ".join(f"{kind}: {hits[kind]} of {number}" for kind, number in Counter(kinds).items()))
        return "\n".join(lines)

    def one(self, kill: Kill) -> None:
        """One attempt and its end."""
        if kill.moment == "fetch":
            self._lose()
        self._expected = self.view.next_start()
        self._left_in_bucket = set(self.view.uploading())
        began = time.monotonic()
        # With another number of ranks no checkpoint may be saved, should the kill come late.
        more = ["--checkpoint.every", "1000000", "--checkpoint.keep_every", "0"] if kill.ranks != RANKS else []
        attempt = self._attempt(kill.ranks, *more)
        hit = self._strikes[kill.moment](kill, attempt)
        attempt.wait()
        hit = hit and self._left_traces(kill, attempt)
        seconds = time.monotonic() - began
        self._check(kill, attempt, hit)
        rows = self.view.row_count()
        if kill.lost:
            self._lose()
        outcome = Outcome(kill, began_at(attempt.output_text()), rows, self.view.next_start(), hit, seconds)
        self.outcomes.append(outcome)
        print(outcome.line(len(self.outcomes)), flush=True)

    def finish(self) -> Attempt:
        """A last attempt, which nobody disturbs."""
        self._expected = self.view.next_start()
        attempt = self._attempt(RANKS)
        assert attempt.wait(300) == 0, attempt.output_text()
        assert began_at(attempt.output_text()) == self._expected
        return attempt

    def _attempt(self, ranks: int, *more: str) -> Attempt:
        output = self.outputs / f"attempt-{len(list(self.outputs.iterdir())) + 1:02d}.txt"
        return self.launcher.start(ranks, output, *self.arguments, *more)

    # One for each moment: wait for it and end the attempt; False if it was missed.

    def _steps(self, kill: Kill, attempt: Attempt) -> bool:
        def stepped() -> bool:
            # The bucket too: where the machine is lost next, there must be something to resume from.
            return self._new_rows(attempt) >= kill.after and bool(self.view.remote.tags())

        return self._until(attempt, stepped) and self._end(kill, attempt)

    def _terminal(self, kill: Kill, attempt: Attempt) -> bool:
        if not self._until(attempt, lambda: self._new_rows(attempt) >= kill.after):
            return False
        attempt.lose_output()
        before = self._new_rows(attempt)
        return self._until(attempt, lambda: self._new_rows(attempt) >= before + 2) and self._end(kill, attempt)

    def _save(self, kill: Kill, attempt: Attempt) -> bool:
        # Files of the run on two ranks: weights, two parts of the optimizer, the head, the checksums.
        least = 1 + int(5 * kill.progress)

        def saving() -> bool:
            return began_at(attempt.output_text()) is not None and len(self.view.unfinished()) >= least

        return self._until(attempt, saving) and self._end(kill, attempt)

    def _evaluation(self, kill: Kill, attempt: Attempt) -> bool:
        evaluated = [_EVALUATED in row for row in self.straight]
        usual, slow = (
            statistics.median(seconds for seconds, is_slow in zip(self.pace, evaluated, strict=True) if is_slow == kind)
            for kind in (False, True)
        )

        def next_is_evaluated() -> bool:
            rows = self.view.row_count()
            return self._new_rows(attempt) > 0 and rows < len(evaluated) and evaluated[rows]

        if not self._until(attempt, next_is_evaluated):
            return False
        time.sleep(usual + kill.progress * max(slow - usual, 0.0) / 2)
        return self._end(kill, attempt)

    def _start(self, kill: Kill, attempt: Attempt) -> bool:
        def began() -> bool:
            return began_at(attempt.output_text()) is not None

        if not self._until(attempt, began):
            return False
        time.sleep(kill.progress / 4)
        return self._end(kill, attempt)

    def _conversion(self, kill: Kill, attempt: Attempt) -> bool:
        least = 1 + int(CONVERTED_FILES * kill.progress)
        return self._until(attempt, lambda: len(self.view.converting()) >= least) and self._end(kill, attempt)

    def _upload(self, kill: Kill, attempt: Attempt) -> bool:
        # Of six files the last one completes it, and comes soon after the fifth.
        least = 1 + int(4 * kill.progress)

        def uploading() -> bool:
            return any(
                number >= least for tag, number in self.view.uploading().items() if tag not in self._left_in_bucket
            )

        return self._until(attempt, uploading) and self._end(kill, attempt)

    def _fetch(self, kill: Kill, attempt: Attempt) -> bool:
        least = 1 + int(5 * kill.progress)
        return self._until(attempt, lambda: len(self.view.unfinished()) >= least) and self._end(kill, attempt)

    def _full_disk(self, kill: Kill, attempt: Attempt) -> bool:
        assert self.disk is not None
        if not self._until(attempt, lambda: self._new_rows(attempt) >= kill.after):
            return False
        size = sum(path.stat().st_size for path in (self.view.checkpoints / self._newest_tag()).rglob("*"))
        # Half of them leave room for a row, but not for the checkpoint.
        leave = int(size * (2 * kill.progress - 1)) if kill.progress > 0.5 else 0
        deadline = time.monotonic() + 120
        while not attempt.over(0.01):
            # What a save has pruned meanwhile is taken too.
            self.disk.fill(leave)
            assert time.monotonic() < deadline, f"the run continues with a full disk:\n{attempt.output_text()}"
        self._expect_named_disk(attempt)
        self.disk.fill()
        again = self._attempt(kill.ranks)
        again.wait()
        self._expect_named_disk(again)
        self.disk.empty()
        return True

    def _second_owner(self, kill: Kill, attempt: Attempt) -> bool:
        if not self._until(attempt, lambda: self._new_rows(attempt) >= kill.after):
            return False
        # One rank is held, so that the run is still there when the second start has found it.
        attempt.kill_one(1, signal.SIGSTOP)
        second = run(ranks(RANKS, *self.arguments), self.outputs)
        attempt.kill_one(1, signal.SIGCONT)
        assert second.returncode == 2, second.stderr
        assert "is in use by process" in second.stderr
        before = self._new_rows(attempt)
        return self._until(attempt, lambda: self._new_rows(attempt) > before) and self._end(kill, attempt)

    def _expect_named_disk(self, attempt: Attempt) -> None:
        assert _NAMES_THE_DISK.search(attempt.output_text()), f"exit code {attempt.code}:\n{attempt.output_text()}"
        # A rank that only lost the other one may be the first to end.
        assert attempt.code in (1, 2), attempt.output_text()

    def _until(self, attempt: Attempt, moment: Callable[[], bool]) -> bool:
        """Wait for a moment; an attempt that has let it pass is killed, False."""
        deadline = time.monotonic() + 120
        while not moment():
            assert not attempt.over(_POLL), f"attempt ended by itself with {attempt.code}:\n{attempt.output_text()}"
            assert time.monotonic() < deadline, f"the moment never comes:\n{attempt.output_text()}"
            if self._new_rows(attempt) >= 4 * self.every or (
                self.view.converted() and "is converted for" in attempt.output_text()
            ):
                attempt.kill_all()
                return False
        return True

    def _end(self, kill: Kill, attempt: Attempt) -> bool:
        time.sleep(kill.delay)
        if kill.ending == "SIGKILL to all":
            attempt.kill_all()
        elif kill.ending == "SIGKILL to one rank":
            attempt.kill_one(kill.rank)
        elif kill.ending in ("SIGINT to all", "broken pipe, then SIGINT"):
            attempt.interrupt_all()
        else:
            attempt.kill_one(kill.rank, signal.SIGTERM)
            if kill.ending == "SIGTERM, then SIGKILL":
                attempt.over(kill.progress / 3)
                attempt.kill_all()
        return True

    def _new_rows(self, attempt: Attempt) -> int:
        """Rows that an attempt has written; it drops those after its checkpoint before it reports that it resumes."""
        return self.view.row_count() - self._expected if began_at(attempt.output_text()) is not None else 0

    def _newest_tag(self) -> str:
        return checkpoint.tag_of(self.view.newest_step())

    def _left_traces(self, kill: Kill, attempt: Attempt) -> bool:
        """Whether what a kill has left shows that it came at its moment."""
        if kill.moment == "evaluation":
            state = self.view.newest()
            return state is not None and state.pending is not None
        if kill.ending not in ("SIGKILL to one rank", "SIGKILL to all"):
            return True
        if kill.moment == "save":
            return bool(self.view.unfinished())
        if kill.moment == "conversion":
            return bool(self.view.converting()) and not self.view.converted()
        if kill.moment == "upload":
            return bool(set(self.view.uploading()) - self._left_in_bucket)
        if kill.moment == "fetch":
            return bool(self.view.unfinished()) and self.view.newest_step() == 0
        if kill.moment == "start":
            return self._new_rows(attempt) <= 0
        return True

    def _check(self, kill: Kill, attempt: Attempt, hit: bool) -> None:
        """What must hold after each attempt."""
        output = attempt.output_text()
        began, kept, rows = began_at(output), self.view.newest_step(), self.view.rows()
        context = f"{kill}\n{output}"
        # It resumed from the newest whole checkpoint, and nothing that counted before is gone.
        assert began in (None, self._expected), context
        assert kept >= self._expected or (kill.moment == "fetch" and kept == 0), context
        assert self.view.problems() == [], context
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)), context
        state = self.view.newest()
        if state is not None:
            assert state.world_size == RANKS, context
            sure = state.step - (state.pending is not None)
            assert rows[:sure] == self.straight[:sure], context
        if began is not None and kill.ranks == RANKS:
            # Each multiple of the interval that a step lies beyond was saved.
            assert kept >= (len(rows) - 1) // self.every * self.every, context
        if kill.ending in ASKED and hit:
            assert attempt.code == 0, context
            assert state is not None
            # Asked in time it loses nothing, here and in the bucket.
            assert kept == len(rows) + (state.pending is not None), context
            assert self.view.remote.tags()[-1] == self._newest_tag(), context
            log = (self.view.folder / "log.txt").read_text()
            assert f"stopped at step {kept}, which is saved" in log, context
            assert "Traceback" not in output, context
            assert ("stdout can no longer be written" in log) or not kill.ending.startswith("broken pipe"), context

    def _lose(self) -> None:
        """The machine is gone with its disk."""
        shutil.rmtree(self.view.folder, ignore_errors=True)
