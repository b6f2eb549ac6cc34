"""A run from its recipe to its last checkpoint."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.places.retries import retries
from electra_scale.data.loader import Batch, Loader
from electra_scale.data.patience import DataError, Patience
from electra_scale.data.prefetch import Prefetcher
from electra_scale.data.run_data import run_loader
from electra_scale.data.store import Store, special_tokens
from electra_scale.model.cost import training_flops
from electra_scale.monitor.alarms import Alarms, signatures
from electra_scale.monitor.hardware import peak_flops
from electra_scale.monitor.meter import Meter
from electra_scale.monitor.progress import Progress
from electra_scale.monitor.slow_ranks import SlowRanks, rank_metrics
from electra_scale.monitor.writer import RunWriter
from electra_scale.recipe.batch import batch_split
from electra_scale.recipe.deepspeed_json import read_deepspeed_json, resolve_deepspeed_json
from electra_scale.recipe.phases import Phase, PhasePlan, phases
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import PretrainModule, build_module
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.checkpoint.state import RunState, tag_of
from electra_scale.train.checkpointer import Checkpointing
from electra_scale.train.drawn_ahead import load_draws, save_draws
from electra_scale.train.engine.engine import Engine, precision_of
from electra_scale.train.engine.world import World
from electra_scale.train.feed import Steps
from electra_scale.train.global_step import GlobalSteps
from electra_scale.train.heldout.heldout import Heldout, evaluation_line
from electra_scale.train.lifecycle.status import State, Status, read_status, write_status
from electra_scale.train.lifecycle.stop import Stopped, StopRequests
from electra_scale.train.lifecycle.time_slice import MEASURED_STEPS, TimeSlice
from electra_scale.train.lifecycle.watchdog import Watchdog, Whereabouts
from electra_scale.train.networks import set_first_weights


def train(
    recipe: Recipe, resume: bool, world: World, stop: StopRequests | None = None, time_slice: TimeSlice | None = None
) -> None:
    """Run the recipe; every rank calls it. Raises UserError for whatever the user can put right.

    A run that ``stop`` asks to stop saves and returns. An error is written into the run folder's status too.
    """
    folder = Path(recipe.run_dir)
    run: Run | None = None
    try:
        run = Run(recipe, resume, world, stop or StopRequests(), time_slice)
        run.run()
    except Exception as error:
        if world.main:
            with contextlib.suppress(OSError, UserError):
                found = read_status(folder)
                # A start that was refused says nothing about the run that is there.
                if (run is not None and run.began) or (resume and not found.finished):
                    write_status(folder, replace(found, state="failed", reason=" ".join(str(error).split())))
        raise


class Run:
    """One process' part of a run."""

    def __init__(
        self, recipe: Recipe, resume: bool, world: World, stop: StopRequests, time_slice: TimeSlice | None
    ) -> None:
        self.recipe = recipe
        self.world = world
        self.stop = stop
        self.slice = time_slice
        self.began = False
        self.own_steps = 0
        self.first_step_at = 0.0
        self.step_seconds = 0.0
        self.saving: float | None = None
        self.deepspeed_json = read_deepspeed_json(recipe.deepspeed)
        self.micro, self.accumulation = batch_split(recipe.batch.global_batch, world.size, recipe.batch.most_per_device)
        self.store = Store(recipe.data.store, recipe.data.cache)
        self.patience = Patience(recipe.data.give_up_minutes, self._data_line)
        self.special = special_tokens(self.store.tokenizer_dir)
        self.config = recipe.networks(self.store.manifest.tokenizer.vocab_size)
        self.folder = RunFolder(Path(recipe.run_dir))
        self.loader = self._loader("train")
        heldout = self._loader("heldout") if self.store.manifest.split("heldout") else None
        self.heldout = Heldout(recipe, heldout, self.micro, world)
        self.writer: RunWriter | None = None
        self.progress: Progress | None = None
        retries.listener = self._data_line
        self.checkpoints = Checkpointing(self.folder, recipe.checkpoint, world, self._data_line)
        self.state = self._starting_state(resume)
        self.phases = phases(recipe)
        self.done = self.state.step
        self.owed: dict[str, float] | None = None
        self.where = Whereabouts(60 * recipe.logging.stuck_minutes, 60 * recipe.data.give_up_minutes)
        self.steps = GlobalSteps(recipe, world, self.loader, self.state, stop, self.where, self._last_good)
        self.slow_ranks = SlowRanks([])
        self.alarms = self._alarms()

    def run(self) -> None:
        if self.state.finished and self.state.step >= self.recipe.total_steps:
            self._tell_status("finished")
            if self.world.main:
                print(f"{self.folder.path} is finished at step {self.state.step}; nothing to do")
            self.checkpoints.begin(self.state.step)
            self.checkpoints.wait_for_copy(lambda: None)
            return
        # All ranks have looked at the folder before one of them writes into it.
        self.world.barrier()
        if self.world.main:
            self.folder.describe(self.recipe, self.deepspeed_json, self.store)
            checkpoint.discard_unfinished(self.folder.checkpoints)
            # A row that is owed is written again.
            self.writer = RunWriter(self.folder.path, self.state.step - (self.state.owed is not None))
            self.progress = Progress(self.recipe.total_steps, self.state.step, self.writer)
            # The writer has dropped the rows after the checkpoint, so these are the rows of the run so far.
            self.alarms.read(self.folder.metrics)
        self._tell_status("running")
        self.began = True
        self.checkpoints.begin(self.state.step)
        hosts = self.world.gather(socket.gethostname())
        self.slow_ranks = SlowRanks(hosts)
        watchdog = Watchdog(self.where, self.world, hosts, self._tell_stuck)
        self.peak = self._peak()
        self._say(self._headline())
        self._tell_cache()
        try:
            self._to_the_end_or_a_stop()
            self.where.at("waiting for the last copy", self.done)
            self.checkpoints.wait_for_copy(self.where.again)
        except DataError as error:
            self._data_line(f"ending: {error}")
            raise
        finally:
            # A copy may take long; nobody is stuck meanwhile.
            watchdog.close()
            self.checkpoints.close()
            if self.progress is not None:
                self.progress.close()
            if self.writer is not None:
                self.writer.close()

    def _to_the_end_or_a_stop(self) -> None:
        try:
            self._run_phases()
            self._tell_status("finished")
        except Stopped as stop:
            self._tell_status("stopped", str(stop))
            self._say(f"stopped at step {self.state.step}, which is saved: {stop}; go on with --resume auto")

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
                self.where.at("loading a checkpoint", self.done, long=True)
                self.checkpoints.load(engine, self.state)
                resumed = False
            self._run_phase(plan, engine)
            if plan is not self.phases[-1]:
                weights = engine.fp32_state()
            engine.close()

    def _run_phase(self, plan: PhasePlan, engine: Engine) -> None:
        self.counted_from = time.monotonic() - self.state.seconds
        length = self.recipe.data.sequence_length
        flops = training_flops(
            self.config, length, plan.mask_share, plan.name == "joint", self.recipe.corruption.uses_generator
        )
        meter = Meter(self.recipe.batch.global_batch * length, flops, self.peak * self.world.size)
        first = max(self.state.step, plan.first)
        self._check_time_slice(known=self.state.step > 0)
        with contextlib.closing(self._feed(first, plan)) as feed:
            steps = Steps(feed, meter, self.stop.asked)
            try:
                if self.state.owed is not None:
                    self._complete(plan, engine, meter, dict(self.state.owed))
                if self.steps.looks_ahead(first, plan) and first == self.state.step > plan.first:
                    folder = self.folder.checkpoints / tag_of(first)
                    steps.restore(first, lambda batches: load_draws(folder, batches, self.world))
                for step in range(first, plan.last):
                    self._one_step(step, steps, plan, engine, meter)
            except Stopped:
                self._save_where_it_is(plan, engine, steps)
                raise

    def _one_step(self, step: int, steps: Steps, plan: PhasePlan, engine: Engine, meter: Meter) -> None:
        done = step + 1
        logged = done % self.recipe.logging.every == 0 or done == plan.last
        result = self.steps.run(step, steps, plan, engine, meter, logged)
        self.done = done
        if self.progress is not None:
            self.progress.advance(done)
        if result.skipped:
            self._say(
                f"step {done} is skipped: its {result.skipped} is not finite ({self.steps.skipped_in_row} in a row, "
                f"{self.steps.skipped} in all); weights and optimizer stay as they were"
            )
        metrics = result.metrics
        if result.rank_seconds:
            metrics |= rank_metrics(result.rank_seconds)
            for sentence in self.slow_ranks.see(done, result.rank_seconds):
                self._say(sentence)
        self._complete(plan, engine, meter, metrics)
        self._time_steps()

    def _complete(self, plan: PhasePlan, engine: Engine, meter: Meter, metrics: dict[str, float]) -> None:
        """What comes after a step: held-out text, its row, its checkpoint."""
        done, owed_before = self.done, self.state.owed is not None
        logged = "optim/lr" in metrics
        # Should a stop come in between, the checkpoint says what is missing.
        self.owed = metrics
        self.where.at("measuring held-out text", done)
        if self.heldout.measure(done, plan, engine.module, metrics, self.steps.poll):
            meter.restart()
        self.owed = None
        if self.writer is not None and self.progress is not None and metrics:
            self.writer.metrics(done, plan.name, metrics)
            for sentence in self.alarms.see(done, metrics):
                self.progress.say(sentence)
            if logged:
                self.progress.report(plan.name, metrics)
            if "eval/generator_cross_entropy" in metrics:
                self.progress.say(evaluation_line(plan.name, done, metrics))
        if owed_before and done == self.state.step:
            self._rewrite_state(plan)
        elif done % self.recipe.checkpoint.every == 0 or done == plan.last:
            self._save_now(plan, engine)
            meter.restart()

    def _save_now(self, plan: PhasePlan, engine: Engine) -> None:
        began = time.monotonic()
        self.state = self._state(plan)
        self.where.at("saving a checkpoint", self.done, long=True)
        self._save(engine)
        self.saving = time.monotonic() - began
        self._tell_status("running")

    def _rewrite_state(self, plan: PhasePlan) -> None:
        # The checkpoint is there, only its word on what is missing is old.
        self.state = self._state(plan)
        if self.world.main:
            checkpoint.rewrite_state(self.folder.checkpoints, self.state)

    def _save_where_it_is(self, plan: PhasePlan, engine: Engine, steps: Steps) -> None:
        """A checkpoint between two of the recipe's interval, with all that the next step needs."""
        if self.done == self.state.step:
            if self.owed not in (None, self.state.owed):
                self._rewrite_state(plan)
            return
        folder = self.folder.checkpoints / tag_of(self.done)
        save_draws(folder, steps.drawn_for(self.done), self.steps.looks_ahead(self.done, plan), self.world)
        self._save_now(plan, engine)

    def _state(self, plan: PhasePlan) -> RunState:
        return RunState(
            step=self.done,
            phase=plan.name,
            world_size=self.world.size,
            tokenizer=self.store.manifest.tokenizer.fingerprint,
            loader=self.loader.state(self.done).to_dict(),
            discriminator_losses=list(self.steps.discriminator_losses),
            seconds=time.monotonic() - self.counted_from,
            finished=self.done == self.recipe.total_steps and self.owed is None,
            skipped=self.steps.skipped,
            skipped_in_row=self.steps.skipped_in_row,
            owed=self.owed,
        )

    def _time_steps(self) -> None:
        """Take the time of this life's first steps, and end a run that can't save in its slice."""
        if self.slice is None:
            return
        self.own_steps += 1
        now = time.monotonic()
        if self.own_steps == 1:
            self.first_step_at = now
        elif self.own_steps == MEASURED_STEPS and self.saving is None:
            self.step_seconds = (now - self.first_step_at) / (MEASURED_STEPS - 1)
            self._check_time_slice(known=True)

    def _check_time_slice(self, known: bool) -> None:
        """Raise UserError on all ranks, by the slowest clock, if this life's first save lies behind the slice's end."""
        if self.slice is None or not known or self.saving is not None:
            return
        start_up = (self.first_step_at or time.monotonic()) - self.slice.began
        a_step = self.step_seconds or self.state.seconds / self.state.step
        measured = self.world.maximum(torch.tensor([start_up, a_step], dtype=torch.float64, device=self.world.device))
        start_up, a_step = measured.tolist()
        self.slice.check(start_up, a_step, self.saving or 0.0, self.recipe.checkpoint.every)

    def _tell_status(self, state: State, reason: str = "") -> None:
        if self.world.main:
            write_status(self.folder.path, Status(state, self.state.step, self.recipe.total_steps, reason))

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

    def _alarms(self) -> Alarms:
        corruption = self.recipe.corruption
        return Alarms(
            signatures(
                learns=corruption.learns,
                weight_bound=corruption.weight_bound,
                evaluates=self.heldout.loader is not None,
                probes=self.heldout.loader is not None and self.recipe.logging.probe_every > 0,
                warmup_steps=self.recipe.schedule.warmup_steps,
                joint_from=self.recipe.generator_warmup.steps,
                sampler_from=self.recipe.generator_warmup.steps + corruption.sampled_from,
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
        module = build_module(recipe, self.config, self.special, phase)
        # The engine sends the main rank's weights to all others.
        if fresh and self.world.main:
            set_first_weights(module.electra, recipe.model, self.store, recipe.seed, self._say)
        return module

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
            self.world,
        )

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
            f"{self.recipe.corruption.label}, {self.loader.samples:,} samples an epoch"
        )

    def _last_good(self) -> str:
        tags = checkpoint.complete_tags(self.folder.checkpoints)
        if not tags:
            return "there is no checkpoint yet"
        # One that was saved while steps were skipped has the weights that made them so.
        good = [tag for tag in tags if checkpoint.read_state(self.folder.checkpoints, tag).skipped_in_row == 0]
        return f"the last good checkpoint is {self.folder.checkpoints / (good or tags)[-1]}"

    def _tell_stuck(self, sentence: str) -> None:
        """From the watchdog of any rank: the first one may be the one that is missing."""
        self.folder.append_to_log(f"rank {self.world.rank}: {sentence}")
        write_status(self.folder.path, Status("failed", self.state.step, self.recipe.total_steps, sentence))
