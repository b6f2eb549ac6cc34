"""What a run writes while it trains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from data_pipeline.settings import too_small

TrackerName = Literal["trackio", "wandb", "mlflow"]


@dataclass
class LoggingConfig:
    """What a run writes while it trains."""

    every: int = 10
    """Steps between rows of metrics.jsonl and TensorBoard."""

    evaluate_every: int = 100
    """Steps between evaluations on held-out text; there is one at the end of each phase in any case."""

    evaluate_samples: int = 256
    """Held-out samples of an evaluation."""

    pairs: int = 256
    """Pairs of held-out sentences that each evaluation of the joint phase scores, of each kind (docs/evaluation.md);
    0 = none."""

    probe_every: int = 0
    """Joint steps between variance probes on held-out text (docs/variance.md), and one at the end; 0 = none."""

    probe_samples: int = 32
    """Held-out samples of a probe. Its cost grows with samples x draws."""

    probe_draws: int = 32
    """Times that a probe draws the replacements of each sample, from p and from q."""

    peak_tflops: float | None = None
    """Peak of a device in TFLOP/s for speed/mfu; unset, it is looked up or measured."""

    tracker: TrackerName | None = None
    """Where the rows go besides TensorBoard: trackio, wandb or mlflow, which must be installed; unset, nowhere."""

    stuck_minutes: float = 10.0
    """Time without progress after which a rank that waits for others names those that are missing and ends; 0 = never.
    Start-up, saves and a store that does not answer are given longer."""

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        found = too_small(
            "logging",
            self,
            every=1,
            evaluate_every=1,
            evaluate_samples=1,
            pairs=0,
            probe_every=0,
            probe_samples=1,
            probe_draws=2,
        )
        # Written so that NaN, which compares false, is refused too.
        if not 0 <= self.stuck_minutes < math.inf:
            found.append(f"logging.stuck_minutes is {self.stuck_minutes}; it must be a number of 0 or more")
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            found.append(f"logging.peak_tflops is {self.peak_tflops}; it must be above 0, or unset")
        return found
