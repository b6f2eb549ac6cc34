"""Run folders as training leaves them, written by hand, so that every state of a run is at hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.fixtures.runs import RECIPE

MakeRun = Callable[..., Path]

STORE = "a" * 64


@pytest.fixture(autouse=True)
def _matplotlib(require_part: Callable[[bool, str], None]) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        require_part(False, "pip install 'electra-scale[report]'")


def row(step: int, joint: bool = True, **more: Any) -> dict[str, Any]:
    """A logged row with plausible values, and ``more``."""
    found: dict[str, Any] = {
        "step": step,
        "phase": "joint" if joint else "generator_warmup",
        "gen/cross_entropy": 6 - math.log1p(step) / 4 + math.sin(step) / 20,
        "gen/accuracy": 0.1,
        "optim/lr": 1e-3,
        "optim/grad_norm": 1.5 + math.cos(step) / 4,
        "optim/skipped_steps": 0.0,
        "data/packing_efficiency": 0.75,
        "speed/tokens_per_second": 256.0,
        "speed/data_wait": 0.25,
    }
    if joint:
        found |= {
            "loss/discriminator": 0.6 - math.log1p(step) / 100,
            "loss/sampler": 0.3,
            "disc/auc": 0.6,
            "disc/precision": 0.4,
            "disc/recall": 0.1,
            "disc_loss_variance/masked": 0.1,
            "disc_loss_variance/step_window": 2e-5,
            "sampling/identical_rate": 0.08,
            "sampling/ess": 0.9,
            "sampling/weight_max": 3.0,
            "sampling/hardness_rank_correlation": 0.5,
        }
    return found | {name.replace("__", "/"): value for name, value in more.items()}


PROBED = {
    "disc_loss_variance__draw_p": 0.1,
    "disc_loss_variance__draw_q": 0.05,
    "disc_loss_variance__draw_ratio": 0.5,
    "disc_gradient_variance__draw_ratio": 0.9,
    "sampling__hardness_rank_correlation_within": 0.4,
    "eval__auc": 0.62,
    "eval__discriminator_loss": 0.54,
    "eval__generator_cross_entropy": 5.2,
    "eval__generator_accuracy": 0.2,
    "eval__pairs_swapped": 0.61,
    "eval__pairs_replaced": 0.58,
}
"""What a row has whose step was evaluated and probed."""

LOG = """\
2026-03-01 10:00:00 starting: 100 steps of 8 x 32 on 2 ranks (micro-batch 4, accumulation 1, cpu), sampler hp_loss
2026-03-01 10:00:30 alarm at step 20: the weights explode <b>now</b>.
2026-03-01 10:01:00 step 31 is skipped: its loss is not finite (1 in a row, 1 in all); weights and optimizer stay
2026-03-01 10:02:00 stopped at step 50, which is saved: a signal
2026-03-01 11:02:00 resuming from step 50: 100 steps of 8 x 32 on 2 ranks (micro-batch 4, accumulation 1, cpu), hp_loss
2026-03-01 11:04:00 joint step 100/100
"""


def full_rows() -> list[dict[str, Any]]:
    """Warm-up and joint rows of 100 steps, probed each tenth step."""
    return [row(step, joint=step > 20, **(PROBED if step > 20 and step % 10 == 0 else {})) for step in range(1, 101)]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run folder: its rows, its log, its status, and changes of the recipe."""

    def make(
        name: str = "run",
        rows: Iterable[dict[str, Any]] | str = (),
        log: str = "",
        status: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        recipe = json.loads(json.dumps(RECIPE))
        for key, value in changes.items():
            section, _, leaf = key.partition(".")
            recipe.setdefault(section, {})[leaf] = value
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (folder / "deepspeed.json").write_text('{"zero_optimization": {"stage": 2}}')
        (folder / "versions.json").write_text('{"electra-scale": "0.1.0"}')
        (folder / "data.json").write_text(json.dumps({"store": "stores/a", "manifest": STORE, "tokenizer": "b" * 64}))
        (folder / "log.txt").write_text(log)
        found = {"state": "finished", "step": 100, "total_steps": 100, "reason": "", "version": 1}
        (folder / "status.json").write_text(json.dumps(found | (status or {})))
        text = rows if isinstance(rows, str) else "".join(json.dumps(each) + "\n" for each in rows)
        (folder / "metrics.jsonl").write_text(text)
        return folder

    return make


def write_scores(run: Path, random: bool = False) -> None:
    """An evaluation and a fine-tuning of a run, as their commands write them."""
    folder = run / "evaluation" / ("random" if random else "")
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "version": 1,
        "model": str(run),
        "step": 100,
        "random": random,
        "probe": "pairs",
        "by": "discriminator",
        "settings": {},
        "scores": [
            {"name": "pairs_swapped", "value": 0.906, "error": 0.013, "count": 541, "chance": 0.5},
            {"name": "perplexity", "value": 31.5, "error": None, "count": None, "chance": None},
        ],
    }
    (folder / "pairs-100.json").write_text(json.dumps(content))
    tuned = run / "finetune" / ("random/cola" if random else "cola")
    tuned.mkdir(parents=True)
    (tuned / "result.json").write_text(
        json.dumps(
            {
                "version": 1,
                "model": str(run),
                "step": 100,
                "random": random,
                "task": "cola",
                "kind": "classification",
                "metric": "matthews",
                "split": "validation",
                "settings": {},
                "seeds": [{"seed": n, "scores": {"matthews": 0.2 + n / 100}, "folder": f"seed-{n}"} for n in range(3)],
                "mean": {"matthews": 0.21, "accuracy": 0.7},
                "deviation": {"matthews": 0.01, "accuracy": 0.02},
                "best": {"seed": 2, "folder": "best"},
            }
        )
    )
