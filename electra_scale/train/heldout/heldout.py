"""What a run measures on held-out text, and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from electra_scale.data.loader import Loader
from electra_scale.monitor.draw_variance import probe_metrics
from electra_scale.recipe.phases import PhasePlan
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import PretrainModule
from electra_scale.train.engine.world import World
from electra_scale.train.heldout.evaluation import evaluate
from electra_scale.train.heldout.probe import probe

_EVALUATED, _PROBED = "eval/generator_cross_entropy", "disc_loss_variance/draw_ratio"


class Heldout:
    """Evaluations and variance probes. ``loader`` is None for a store without held-out text; then there are none."""

    def __init__(self, recipe: Recipe, loader: Loader | None, micro_batch: int, world: World) -> None:
        self.recipe = recipe
        self.loader = loader
        self.micro_batch = micro_batch
        self.world = world

    def measure(
        self,
        done: int,
        plan: PhasePlan,
        module: PretrainModule,
        metrics: dict[str, float],
        poll: Callable[[], None] = lambda: None,
    ) -> bool:
        """Add to ``metrics`` what is due after ``done`` steps and not there yet; whether anything was.

        If ``poll`` raises, ``metrics`` holds what was complete. Every rank must call it.
        """
        if self.loader is None:
            return False
        logging, share = self.recipe.logging, self.recipe.data.mask_share
        measured = False
        if self._evaluates_at(done, plan) and _EVALUATED not in metrics:
            metrics |= evaluate(
                module, self.loader, logging.evaluate_samples, share, self.micro_batch, self.world, poll
            )
            measured = True
        if self._probes_at(done, plan) and _PROBED not in metrics:
            found = probe(
                module,
                self.loader,
                logging.probe_samples,
                logging.probe_draws,
                share,
                self.micro_batch,
                self.world,
                poll=poll,
            )
            metrics |= probe_metrics(found)
            measured = True
        return measured

    def _evaluates_at(self, done: int, plan: PhasePlan) -> bool:
        return done % self.recipe.logging.evaluate_every == 0 or done == plan.last

    def _probes_at(self, done: int, plan: PhasePlan) -> bool:
        every = self.recipe.logging.probe_every
        if not every or plan.name != "joint":
            return False
        return (done - plan.first) % every == 0 or done == plan.last


def evaluation_line(phase: str, step: int, metrics: Mapping[str, float]) -> str:
    """For people."""
    text = f"held-out at step {step} ({phase}): generator {metrics['eval/generator_cross_entropy']:.3f} nats"
    if "eval/auc" in metrics:
        text += f", discriminator {metrics['eval/discriminator_loss']:.4f}, AUC {metrics['eval/auc']:.4f}"
    return text
