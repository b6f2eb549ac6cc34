"""The progress of a run for people: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tqdm import tqdm

from data_pipeline.progress import shows_bars
from electra_scale.monitor.stopwatch import PARTS
from electra_scale.monitor.writer import RunWriter


class Progress:
    """A bar with rate and time left in a terminal, a line now and then elsewhere."""

    def __init__(self, total: int, start: int, writer: RunWriter) -> None:
        self._writer = writer
        self._total = total
        self._step = start
        # Set with the first step, so that what comes before it does not count as speed.
        self._first_step_at = 0.0
        self._start = start
        self._last_print = float("-inf")
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True) if shows_bars() else None

    def advance(self, step: int) -> None:
        """A step has been made."""
        if not self._first_step_at:
            self._start, self._first_step_at = step, time.monotonic()
        self._step = step
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def report(self, phase: str, values: Mapping[str, float]) -> None:
        """Show the newest values; the log file gets every report, a pipe one in ten seconds."""
        text = f"{phase} step {self._step}/{self._total}  " + "  ".join(
            f"{label} {values[name]:{form}}" for name, label, form in _SHOWN if name in values
        )
        left = self._seconds_left()
        if left is not None:
            text += f"  left {_clock(left)}"
        self._writer.line(text)
        if self._bar is not None:
            self._bar.set_postfix_str(
                " ".join(f"{label}={values[name]:{form}}" for name, label, form in _SHOWN[:4] if name in values)
            )
        elif time.monotonic() - self._last_print >= 10:
            self._last_print = time.monotonic()
            print(text, flush=True)

    def log(self, text: str) -> None:
        """A line for people, in the terminal and in the log file."""
        self._writer.line(text)
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def _seconds_left(self) -> float | None:
        done = self._step - self._start
        if done <= 0:
            return None
        return (time.monotonic() - self._first_step_at) / done * (self._total - self._step)


_SHOWN = (
    ("speed/tokens_per_second", "tokens/s", ",.0f"),
    ("loss/generator", "generator", ".3f"),
    ("loss/discriminator", "discriminator", ".4f"),
    ("disc/auc", "auc", ".3f"),
    ("disc_loss_variance/masked", "variance", ".3f"),
    ("sampling/identical_rate", "identical", ".3f"),
    ("optim/grad_norm", "grad", ".2f"),
    ("speed/mfu", "mfu", ".3f"),
    *((f"speed/{name}", name.replace("_", " "), ".0%") for name in PARTS),
)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
