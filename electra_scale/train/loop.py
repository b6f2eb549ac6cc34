"""A run from its recipe to its last checkpoint."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.retries import retries
from electra_scale.config import Recipe, batch_split
from electra_scale.data.loader import Batch, Loader
from electra_scale.data.noise import generator_key
from electra_scale.data.prefetch import DataError, Patience, Prefetcher
from electra_scale.data.store import Store, special_tokens
from electra_scale.model import Electra
from electra_scale.model.config import discriminator_flops, generator_flops
from electra_scale.monitor.alarms import Alarms, signatures
from electra_scale.monitor.draw_variance import probe_metrics
from electra_scale.monitor.hardware import peak_flops
from electra_scale.monitor.meter import Meter
from electra_scale.monitor.statistics import Flattener, combine, generator_metrics, joint_metrics
from electra_scale.monitor.writer import Progress, RunWriter
from electra_scale.replacement import Ahead, build_sampler
from electra_scale.replacement.config import LEARNING
from electra_scale.train import checkpoint
from electra_scale.train.checkpoint import RunState
from electra_scale.train.checkpointing import Checkpointing
from electra_scale.train.engine import Engine, World, precision_of, read_deepspeed_json, resolve_deepspeed_json
from electra_scale.train.evaluation import evaluate
from electra_scale.train.first_weights import set_first_weights
from electra_scale.train.inputs import run_loader
from electra_scale.train.module import GlobalCounts, Phase, PretrainModule
from electra_scale.train.probe import probe
from electra_scale.train.run_folder import RunFolder
from electra_scale.train.schedule import PhasePlan, learning_rate, phases
from electra_scale.train.steps import Steps

STEP_WINDOW = 100
"""Steps over which disc_loss_variance/step_window is taken."""


def train(recipe: Recipe, resume: bool, world: World) -> None:
    """Run the recipe; every rank calls it. Raises UserError for whatever the user can put right."""
    Run(recipe, resume, world).run()


class Run:
    """One process' part of a run."""

    def __init__(self, recipe: Recipe, resume: bool, world: World) -> None:
        self.recipe = recipe
        self.world = world
        self.deepspeed_json = read_deepspeed_json(recipe.deepspeed)
        self.micro, self.accumulation = batch_split(recipe.batch.global_batch, world.size, recipe.batch.most_per_device)
        self.store = Store(recipe.data.store, recipe.data.cache)
        self.patience = Patience(recipe.data.give_up_minutes, self._data_line)
        self.special = special_tokens(self.store.tokenizer_dir)
        self.config = recipe.model.resolve(self.store.manifest.tokenizer.vocab_size)
        self.folder = RunFolder(Path(recipe.run_dir))
        self.loader = self._loader("train")
        self.heldout = self._loader("heldout") if self.store.manifest.split("heldout") else None
        self.writer: RunWriter | None = None
        self.progress: Progress | None = None
        retries.listener = self._data_line
        self.checkpoints = Checkpointing(self.folder, recipe.checkpoint, world, self._data_line)
        self.state = self._starting_state(resume)
        self.phases = phases(recipe)
        self.discriminator_losses: deque[float] = deque(self.state.discriminator_losses, maxlen=STEP_WINDOW)
        self.alarms = self._alarms()

    def run(self) -> None:
        if self.state.finished and self.state.step >= self.recipe.total_steps:
            if self.world.main:
                print(f"{self.folder.path} is finished at step {self.state.step}; nothing to do")
            self.checkpoints.begin(self.state.step)
            self.checkpoints.close()
            return
        # All ranks have looked at the folder before one of them writes into it.
        self.world.barrier()
        if self.world.main:
            self.folder.describe(self.recipe, self.deepspeed_json, self.store)
            checkpoint.discard_unfinished(self.folder.checkpoints)
            self.writer = RunWriter(self.folder.path, self.state.step)
            self.progress = Progress(self.recipe.total_steps, self.state.step, self.writer)
            # The writer has dropped the rows after the checkpoint, so these are the rows of the run so far.
            self.alarms.read(self.folder.metrics)
        self.world.barrier()
        self.checkpoints.begin(self.state.step)
        self.peak = self._peak()
        self._say(self._headline())
        self._tell_cache()
        try:
            self._run_phases()
        except DataError as error:
            self._data_line(f"ending: {error}")
            raise
        finally:
            self.checkpoints.close()
            if self.progress is not None:
                self.progress.close()
            if self.writer is not None:
                self.writer.close()

    def _run_phases(self) -> None:
        weights: dict[str, Tensor] | None = None
        resumed = self.state.step > 0
        for plan in self.phases:
            if resumed and self.state.phase != plan.name:
                continue
            module = self._module(plan.name, fresh=weights is None and not resumed)
            if weights is not None:
                module.load_state_dict(weights, strict=True)
            engine = self._engine(module, plan)
            if resumed:
                self.checkpoints.load(engine, self.state)
                resumed = False
            self._run_phase(plan, engine)
            if plan is not self.phases[-1]:
                weights = engine.fp32_state()
            engine.close()

    def _run_phase(self, plan: PhasePlan, engine: Engine) -> None:
        began = time.monotonic() - self.state.seconds
        tokens = self.recipe.batch.global_batch * self.recipe.data.sequence_length
        logging, every = self.recipe.logging, self.recipe.checkpoint.every
        meter = Meter(tokens, self._flops_per_token(plan), self.peak * self.world.size)
        first = max(self.state.step, plan.first)
        with contextlib.closing(self._feed(first, plan)) as feed:
            steps = Steps(feed, meter)
            for step in range(first, plan.last):
                done = step + 1
                last_of_run = done == self.recipe.total_steps
                logged = done % logging.every == 0 or done == plan.last
                metrics = self._step(step, steps, plan, engine, meter, logged)
                if self.progress is not None:
                    self.progress.advance(done)
                if done % logging.evaluate_every == 0 or done == plan.last:
                    metrics |= self._evaluate(engine.module)
                    meter.restart()
                if self._probes_at(done, plan):
                    metrics |= self._probe(engine.module)
                    meter.restart()
                if self.writer is not None and self.progress is not None and metrics:
                    self.writer.metrics(done, plan.name, metrics)
                    for sentence in self.alarms.see(done, metrics):
                        self.progress.say(sentence)
                    if logged:
                        self.progress.report(plan.name, metrics)
                    if "eval/generator_cross_entropy" in metrics:
                        self.progress.say(_evaluation_line(plan.name, done, metrics))
                if done % every == 0 or done == plan.last:
                    self.state = RunState(
                        step=done,
                        phase=plan.name,
                        world_size=self.world.size,
                        tokenizer=self.store.manifest.tokenizer.fingerprint,
                        loader=self.loader.state(done).to_dict(),
                        discriminator_losses=list(self.discriminator_losses),
                        seconds=time.monotonic() - began,
                        finished=last_of_run,
                    )
                    self._save(engine)
                    meter.restart()

    def _feed(self, first: int, plan: PhasePlan) -> Prefetcher[list[Batch]]:
        """This rank's micro-batches of each step of a phase from ``first`` on."""
        share, data = self.micro * self.accumulation, self.recipe.data
        return self.loader.run(
            first,
            plan.last,
            self.world.rank * share,
            share,
            self.micro,
            plan.mask_share,
            data.prefetch_threads,
            data.prefetch_shards,
        )

    def _step(
        self,
        step: int,
        steps: Steps,
        plan: PhasePlan,
        engine: Engine,
        meter: Meter,
        logged: bool,
    ) -> dict[str, float]:
        """One global step; metrics where the step is logged, else an empty dictionary."""
        batches, ahead, failure = steps.take(step)
        counts = self._global_counts(batches, failure)
        if plan.name == "joint":
            engine.module.begin_step(step - plan.first)
        total: Tensor | None = None
        flattener: Flattener | None = None
        for number, batch in enumerate(batches):
            self._seed_dropout(step, number)
            sums = engine.forward_backward(batch.to(self.world.device), counts, logged, ahead[number])
            flattener = flattener or Flattener(sums)
            vector = flattener.pack(sums)
            total = combine(total, vector, flattener.maximum_mask(vector.device))
        assert flattener is not None
        assert total is not None
        values = flattener.unpack(self._reduce(total, flattener).cpu().numpy())
        loss = values["generator_loss"].sum() + values.get("discriminator_loss", np.zeros(1)).sum()
        if not math.isfinite(loss):
            raise UserError(self._not_finite(step, "loss"))
        if plan.name == "joint":
            engine.module.sampler.observe(float(values["weighted_loss"][0] / max(values["masked"][0], 1.0)))
            if self._looks_ahead(step + 1, plan):
                self._draw_ahead(step + 1, steps, engine.module, step + 1 - plan.first)
        rate = learning_rate(plan, step, self.recipe)
        norm = engine.step(rate)
        if not math.isfinite(norm):
            raise UserError(self._not_finite(step, "gradient"))
        meter.steps += 1
        if plan.name == "joint":
            self.discriminator_losses.append(float(values["discriminator_loss"][0] / max(values["tokens"][0], 1.0)))
        if not logged:
            return {}
        metrics = self._metrics(plan, values)
        metrics |= {"optim/lr": rate, "optim/grad_norm": norm, "optim/head_grad_norm": engine.head_norm}
        metrics |= self._data_metrics(float(counts.tokens))
        return metrics | meter.read()

    def _looks_ahead(self, step: int, plan: PhasePlan) -> bool:
        """Whether a step's replacements are drawn before the update of the one before.

        Not after a checkpoint: what was drawn ahead is not part of it, and a resumed run must draw what this one does.
        """
        saved = step % self.recipe.checkpoint.every == 0
        return self.recipe.objective.look_ahead and step < plan.last and not saved

    def _draw_ahead(self, step: int, steps: Steps, module: PretrainModule, joint_step: int) -> None:
        def draw(number: int, batch: Batch) -> Ahead:
            self._seed_dropout(step, number, "look-ahead dropout")
            return module.look_ahead(batch.to(self.world.device))

        module.begin_step(joint_step)
        steps.draw_ahead(step, draw)

    def _metrics(self, plan: PhasePlan, values: Mapping[str, Any]) -> dict[str, float]:
        objective = self.recipe.objective
        if plan.name != "joint":
            metrics = generator_metrics(dict(values))
            return metrics | {"loss/total": metrics["loss/generator"]}
        metrics = joint_metrics(dict(values), objective.discriminator_weight, objective.sampler_weight)
        recent = self.discriminator_losses
        metrics["disc_loss_variance/step_window"] = statistics.pvariance(recent) if len(recent) > 1 else 0.0
        return metrics

    def _data_metrics(self, tokens: float) -> dict[str, float]:
        """How full the step's rows were, and what all ranks have fetched since the run was started."""
        local = torch.tensor(self.loader.fetched(), dtype=torch.float64, device=self.world.device)
        size, errors = self.world.sum(local).tolist()
        positions = self.recipe.batch.global_batch * self.recipe.data.sequence_length
        return {
            "data/packing_efficiency": tokens / positions,
            "data/fetched_mb": size / 1e6,
            "data/fetch_errors": errors,
        }

    def _global_counts(self, batches: list[Batch], failure: DataError | None) -> GlobalCounts:
        """Counts over all ranks; every rank hears here of one that has no batch, so that none waits for it."""
        masked = sum(len(batch.masked) for batch in batches)
        tokens = sum(int((batch.segment >= 0).sum()) for batch in batches)
        local = torch.tensor([masked, tokens, failure is not None], dtype=torch.float64, device=self.world.device)
        counts = self.world.sum(local).float()
        if counts[2] > 0:
            raise failure or DataError("another rank could not read its data; its own line and log.txt say why")
        counts = counts.clamp(min=1)
        return GlobalCounts(counts[0], counts[1])

    def _reduce(self, total: Tensor, flattener: Flattener) -> Tensor:
        maximum = flattener.maximum_mask(total.device)
        summed = self.world.sum(total.clone())
        if not maximum.any():
            return summed
        return torch.where(maximum, self.world.maximum(total), summed)

    def _evaluate(self, module: PretrainModule) -> dict[str, float]:
        if self.heldout is None:
            return {}
        return evaluate(
            module,
            self.heldout,
            self.recipe.logging.evaluate_samples,
            self.recipe.data.mask_share,
            self.micro,
            self.world,
        )

    def _probes_at(self, done: int, plan: PhasePlan) -> bool:
        every = self.recipe.logging.probe_every
        if not every or self.heldout is None or plan.name != "joint":
            return False
        return (done - plan.first) % every == 0 or done == plan.last

    def _probe(self, module: PretrainModule) -> dict[str, float]:
        assert self.heldout is not None
        samples, draws = self.recipe.logging.probe_samples, self.recipe.logging.probe_draws
        return probe_metrics(
            probe(module, self.heldout, samples, draws, self.recipe.data.mask_share, self.micro, self.world)
        )

    def _alarms(self) -> Alarms:
        objective = self.recipe.objective
        learns = objective.sampler in LEARNING
        bound = 1 / objective.mixture if learns and objective.mixture else math.inf
        return Alarms(
            signatures(
                learns=learns,
                weight_bound=bound if objective.weighted else 0.0,
                evaluates=self.heldout is not None,
                probes=self.heldout is not None and self.recipe.logging.probe_every > 0,
                warmup_steps=self.recipe.schedule.warmup_steps,
                joint_from=self.recipe.generator_warmup.steps,
                sampler_from=self.recipe.generator_warmup.steps + objective.start_after,
            )
        )

    def _save(self, engine: Engine) -> None:
        if self.writer is not None:
            self.writer.flush()
        self.checkpoints.save(engine, self.state)

    def _starting_state(self, resume: bool) -> RunState:
        new = RunState(0, "generator_warmup", self.world.size, self.store.manifest.tokenizer.fingerprint, {})
        if not resume:
            self.checkpoints.refuse_to_overwrite()
            return new
        state = self.checkpoints.newest()
        self.folder.check_tokenizer(self.store)
        if state is None:
            return new
        step = self.loader.check(state.loader)
        if step != state.step:
            raise UserError(
                f"checkpoint at step {state.step} of {self.folder.path} holds data for step {step}; remove it"
            )
        return state

    def _loader(self, split: str) -> Loader:
        return run_loader(self.recipe, self.store, split, self.special, self.patience)

    def _module(self, phase: Phase, fresh: bool) -> PretrainModule:
        """Networks with their first weights; ``fresh`` = these are really trained from, not loaded over."""
        recipe = self.recipe
        electra = Electra(self.config, recipe.seed)
        # The engine sends the main rank's weights to all others.
        if fresh and self.world.main:
            set_first_weights(electra, recipe.model, self.store, recipe.seed, self._say)
        sampler = build_sampler(recipe.objective, self.config, recipe.seed)
        return PretrainModule(electra, sampler, recipe.objective, self.special, phase)

    def _engine(self, module: PretrainModule, plan: PhasePlan) -> Engine:
        resolved = resolve_deepspeed_json(
            self.deepspeed_json,
            self.recipe.optimizer,
            plan.peak_rate,
            self.micro,
            self.accumulation,
            self.world.size,
        )
        return Engine(
            module.to(self.world.device),
            resolved,
            self.recipe.optimizer,
            self.recipe.objective.head,
            self.world,
        )

    def _seed_dropout(self, step: int, number: int, purpose: str = "dropout") -> None:
        if self.config.dropout or self.config.attention_dropout:
            torch.manual_seed(generator_key(self.recipe.seed, purpose, step, self.world.rank, number) >> 1)

    def _flops_per_token(self, plan: PhasePlan) -> float:
        length = self.recipe.data.sequence_length
        forward = generator_flops(self.config, length, plan.mask_share)
        if plan.name == "joint":
            forward += discriminator_flops(self.config, length)
        # Backward costs twice the forward pass.
        return 3 * forward

    def _peak(self) -> float:
        if self.recipe.logging.peak_tflops is not None:
            return self.recipe.logging.peak_tflops * 1e12
        return peak_flops(self.world.device, precision_of(self.deepspeed_json))

    def _say(self, text: str) -> None:
        if self.progress is not None:
            self.progress.say(text)

    def _data_line(self, text: str) -> None:
        """A line about this rank's data, from any thread."""
        if self.progress is not None:
            self.progress.say(text)
        elif not self.world.main:
            self.folder.append_to_log(f"rank {self.world.rank}: {text}")
        else:
            self.folder.append_to_log(text)
            print(text, flush=True)

    def _tell_cache(self) -> None:
        cache = self.store.cache
        if cache is None:
            return
        gigabytes = cache.limit / 1e9
        self._say(f"shards of {self.store.url} are cached in {cache.folder}, {gigabytes:.3g} GB at most")
        needed = self.loader.working_set(self.world.nodes, self.recipe.data.prefetch_shards * self.world.local_size)
        if needed > cache.limit:
            self._say(
                f"warning: this node reads from about {needed / 1e9:.3g} GB of shards at once, which the cache cannot "
                "hold: shards will be fetched again and again; raise data.cache.limit_gb, or lower data.shuffle_window"
            )

    def _headline(self) -> str:
        start = f"going on from step {self.state.step}" if self.state.step else "starting"
        return (
            f"{start}: {self.recipe.total_steps} steps of {self.recipe.batch.global_batch} x "
            f"{self.recipe.data.sequence_length} on {self.world.size} ranks "
            f"(micro-batch {self.micro}, accumulation {self.accumulation}, {self.world.device.type}), "
            f"sampler {self.recipe.objective.sampler}, {self.loader.samples:,} samples an epoch"
        )

    def _not_finite(self, step: int, what: str) -> str:
        tags = checkpoint.complete_tags(self.folder.checkpoints)
        good = f"the last good checkpoint is {self.folder.checkpoints / tags[-1]}" if tags else "no checkpoint yet"
        return (
            f"{what} is not finite at step {step + 1}; {good}; lower optimizer.learning_rate or look at the data, "
            "then go on with --resume auto"
        )


def _evaluation_line(phase: str, step: int, metrics: Mapping[str, float]) -> str:
    text = f"held-out at step {step} ({phase}): generator {metrics['eval/generator_cross_entropy']:.3f} nats"
    if "eval/auc" in metrics:
        text += f", discriminator {metrics['eval/discriminator_loss']:.4f}, AUC {metrics['eval/auc']:.4f}"
    return text
