"""The rows of a run: metrics.jsonl, TensorBoard, the line for people, and the alarms that read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from electra_scale.data.pairs import KINDS
from electra_scale.monitor.alarms import Alarms, signatures
from electra_scale.recipe.recipe import Recipe
from electra_scale.train.duty import Duty, StepDone
from electra_scale.train.lifecycle.reporter import Reporter


class Rows(Duty):
    """Writes the row of a step on the main rank, and looks at it for signatures of bad training.

    ``metrics`` is the file with the rows of the run so far, which the alarms read again.
    """

    def __init__(self, recipe: Recipe, reporter: Reporter, metrics: Path, heldout: bool) -> None:
        self.reporter = reporter
        self.alarms = alarms_of(recipe, heldout)
        if reporter.main:
            self.alarms.read(metrics)

    def after_step(self, step: StepDone) -> None:
        if not self.reporter.main or not step.metrics:
            return
        self.reporter.row(step.done, step.plan.name, step.metrics)
        for sentence in self.alarms.see(step.done, step.metrics):
            self.reporter.log(sentence)
        if "optim/lr" in step.metrics:
            self.reporter.show(step.plan.name, step.metrics)
        if any(name.startswith("eval/") for name in step.metrics):
            self.reporter.log(evaluation_line(step.plan.name, step.done, step.metrics))


def alarms_of(recipe: Recipe, heldout: bool) -> Alarms:
    """The alarms that fit a recipe; ``heldout``: whether its store has held-out text."""
    corruption = recipe.corruption
    return Alarms(
        signatures(
            learns=corruption.learns,
            weight_bound=corruption.weight_bound,
            evaluates=heldout,
            probes=heldout and recipe.logging.probe_every > 0,
            warmup_steps=recipe.schedule.warmup_steps,
            joint_from=recipe.generator_warmup.steps,
            sampler_from=recipe.generator_warmup.steps + corruption.sampled_from,
            other_objective=bool(corruption.other_objective),
        )
    )


def evaluation_line(phase: str, step: int, metrics: Mapping[str, float]) -> str:
    """The result of an evaluation, for people."""
    parts = []
    if "eval/generator_cross_entropy" in metrics:
        parts.append(f"generator {metrics['eval/generator_cross_entropy']:.3f} nats")
    if "eval/auc" in metrics:
        parts.append(f"discriminator {metrics['eval/discriminator_loss']:.4f}, AUC {metrics['eval/auc']:.4f}")
    shares = [f"{name} {metrics[tag]:.3f}" for name in KINDS if (tag := f"eval/pairs_{name}") in metrics]
    if shares:
        parts.append(f"pairs {', '.join(shares)}")
    return f"held-out at step {step} ({phase}): {', '.join(parts)}"
