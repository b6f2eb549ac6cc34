"""A run from its recipe to its last checkpoint."""

from __future__ import annotations

import contextlib
import gc
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from data_pipeline.errors import OneRankError, UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.retries import retries
from electra_scale.data.batch import Batch
from electra_scale.data.loader import Loader, open_loader
from electra_scale.data.prefetch import Prefetcher
from electra_scale.data.retry_budget import RetryBudget
from electra_scale.data.store import special_tokens
from electra_scale.monitor.batch_flops import BatchFlops
from electra_scale.monitor.hardware import device_name, peak_flops
from electra_scale.monitor.meter import Meter
from electra_scale.monitor.trackers import check_tracker
from electra_scale.recipe.batch import batch_split
from electra_scale.recipe.deepspeed_json import AUTO, chosen_json, resolve_deepspeed_json
from electra_scale.recipe.phases import Phase, PhasePlan, phases, trained_parts
from electra_scale.recipe.recipe import Recipe
from electra_scale.recipe.resuming import Settings, draws_differ
from electra_scale.tasks.module import PretrainModule, build_module
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.owner import InUse, free
from electra_scale.train.checkpoint.run_folder import MEASURES, RunFolder
from electra_scale.train.checkpoint.state import tag_of
from electra_scale.train.checkpointer import Checkpointer
from electra_scale.train.drawn_ahead import load_draws
from electra_scale.train.duties.profiling import Profiling
from electra_scale.train.duties.rows import Rows
from electra_scale.train.duties.saving import Saving
from electra_scale.train.duties.slice_check import SliceCheck
from electra_scale.train.duties.step_lines import RankTimes, StepLines
from electra_scale.train.duty import Duty, StepDone
from electra_scale.train.engine.engine import Engine
from electra_scale.train.engine.precision import has_bf16, precision_of
from electra_scale.train.engine.world import World
from electra_scale.train.feed import MicroBatches
from electra_scale.train.global_step import GlobalSteps
from electra_scale.train.heldout.heldout import Heldout
from electra_scale.train.lifecycle.agreement import open_inputs
from electra_scale.train.lifecycle.failures import Failures
from electra_scale.train.lifecycle.profiled_steps import ProfiledSteps
from electra_scale.train.lifecycle.reporter import Reporter, cache_lines, headline
from electra_scale.train.lifecycle.status import read_status, write_status
from electra_scale.train.lifecycle.stop import Stopped, StopRequests
from electra_scale.train.lifecycle.time_slice import TimeSlice
from electra_scale.train.lifecycle.watchdog import Position, Watchdog
from electra_scale.train.networks import set_first_weights

if TYPE_CHECKING:
    from electra_scale.model.starts.start import Start


def train(
    recipe: Recipe,
    resume: bool,
    world: World,
    stop: StopRequests | None = None,
    time_slice: TimeSlice | None = None,
    failures: Failures | None = None,
    profiled: ProfiledSteps | None = None,
) -> None:
    """Run the recipe; every rank calls it. Raises UserError for whatever the user can put right.

    A run that ``stop`` asks to stop saves and returns. An error, of this rank or of another one that ``failures`` knows
    of, is written into the run folder's status too. ``profiled`` are the steps that are recorded.
    """
    folder = Path(recipe.run_dir)
    run: Run | None = None
    held = contextlib.ExitStack()
    try:
        run = Run(recipe, resume, world, stop or StopRequests(), time_slice, held, failures, profiled)
        run.run()
    except Exception as error:
        if world.main and run is not None:
            # What another start has taken over is not touched, and that says more than any error that follows from it.
            run.checkpoints.refuse_if_taken()
        reason = failures.settle(error).sentence() if failures is not None else str(error)
        if world.main and not isinstance(error, InUse):
            with contextlib.suppress(OSError, UserError):
                found = read_status(folder)
                # A start that was refused leaves the status of the run that is there as it is.
                refused = run is None or not run.started
                if not refused or (resume and not found.finished and free(FolderPlace(folder))):
                    write_status(folder, replace(found, state="failed", reason=" ".join(reason.split())))
        raise
    finally:
        held.close()


class Run:
    """One process's part of a run: the phases, and in each the steps with the duties around them.

    It owns the run folder until ``held`` is closed.
    """

    def __init__(
        self,
        recipe: Recipe,
        resume: bool,
        world: World,
        stop: StopRequests,
        time_slice: TimeSlice | None,
        held: contextlib.ExitStack,
        failures: Failures | None = None,
        profiled: ProfiledSteps | None = None,
    ) -> None:
        given, bf16 = recipe.deepspeed, has_bf16(world.device)
        recipe = replace(recipe, deepspeed=chosen_json(given, bf16))
        self.recipe = recipe
        self.world = world
        self.stop = stop
        self.time_slice = time_slice
        self.failures = failures
        self.profiled = profiled
        self.started = False
        slices = time_slice is not None
        self.deepspeed_json, self.store = open_inputs(recipe, world, resume=resume, time_slice=slices)
        if recipe.logging.tracker is not None:
            world.from_main(lambda: check_tracker(recipe.logging.tracker))
        self.micro, self.accumulation = batch_split(recipe.batch.global_batch, world.size, recipe.batch.most_per_device)
        self.folder = RunFolder(Path(recipe.run_dir))
        self.reporter = Reporter(self.folder, world, recipe.total_steps)
        held.enter_context(retries.listening(self.reporter.log_of_rank))
        self.budget = RetryBudget(recipe.data.give_up_minutes, self.reporter.log_of_rank)
        self.special = special_tokens(self.store.tokenizer_dir)
        self.config = recipe.networks(self.store.manifest.tokenizer.vocab_size)
        self.loader = self._loader("train")
        self.heldout = self._loader("heldout") if self.store.manifest.split("heldout") else None
        self.checkpoints = Checkpointer(self.folder, recipe.checkpoint, world, self.reporter.log_of_rank, stop.ask)
        self.reporter.owned = self.checkpoints.owner.owned
        held.callback(self.checkpoints.release)
        self.checkpoints.claim()
        self.start = self.checkpoints.starting_state(resume, self.store, self.loader)
        self.changed, self.lines = self.checkpoints.changes(self.start, Settings(recipe, self.deepspeed_json))
        if given == AUTO:
            what = "has" if bf16 else "has no"
            self.lines.append(
                f"deepspeed: auto takes {recipe.deepspeed}: {world.device.type} {what} instructions for bf16"
            )
        self.phases = [plan for plan in phases(recipe) if plan.first < plan.last]
        if not recipe.task.detects:
            self.lines.append(
                "task.kind is mlm: one encoder, of model.discriminator's size, learns masked prediction alone; "
                "model.generator, optimizer.generator_rate, the sampler, logging.pairs and logging.probe_every are not "
                "read"
            )
        elif recipe.schedule.steps == 0:
            self.lines.append(
                "schedule.steps is 0: the run ends with the generator's warm-up, and no discriminator is trained"
            )
        self.position = Position(60 * recipe.logging.stuck_minutes, 60 * recipe.data.give_up_minutes)
        self.global_steps = GlobalSteps(
            recipe, world, self.loader, self.start, stop, self.position, self.reporter.last_good_checkpoint
        )
        self.saving = Saving(
            recipe,
            world,
            self.checkpoints,
            self.global_steps,
            self.loader,
            self.store.manifest.tokenizer.fingerprint,
            self.start,
            self.reporter,
            self.position,
            time_slice,
        )
        self.duties: list[Duty] = []
        self.last: StepDone | None = None
        self.first: Start | None = None

    def run(self) -> None:
        """Train to the end, or until a stop; returns when the last copy of a checkpoint is made or has failed."""
        over = self.start.step - self.recipe.total_steps
        if over > 0 or (over == 0 and self.start.pending is None):
            self._report_finished()
            return
        # All ranks have looked at the folder before one of them writes into it.
        self.world.barrier()
        with contextlib.ExitStack() as closing:
            hosts = self.world.gather(socket.gethostname())
            watchdog = Watchdog(self.position, self.world, hosts, self.reporter.stuck)
            closing.callback(watchdog.close)
            # Whatever refuses this start leaves the folder as it is.
            try:
                plan, engine = self._first_engine()
            except Stopped as stop:
                self._report_stop(stop)
                return
            self._open(closing, hosts)
            # The watchdog is closed first: copying the last checkpoint may take long, and no rank is stuck meanwhile.
            self.duties = [watchdog, *self._duties(hosts)]
            for duty in reversed(self.duties):
                closing.callback(duty.close)
            self.peak = self._peak()
            self._report_start()
            _collect_garbage_from_now_on()
            try:
                self._run_until_the_end_or_a_stop(plan, engine)
                self.position.at("waiting for the last copy", self.saving.state.step)
                self.checkpoints.wait_for_copy(self.position.again)
            except Exception as error:
                # Before duties are closed, which may take long: the other ranks wait for this one.
                if self.failures is not None:
                    self.failures.settle(error, self.position.place.step)
                if isinstance(error, OneRankError):
                    self.reporter.log_of_rank(f"ending: {error}")
                raise

    def _open(self, closing: contextlib.ExitStack, hosts: list[str]) -> None:
        """Write into the run folder from here on: what the run is made of now, its rows and its status."""
        self.world.from_main(self.checkpoints.confirm)
        measured = self.folder.measures() if self.world.main else MEASURES
        if measured != MEASURES and self.start.step > 0:
            self.lines.append(
                f"from step {self.start.step} on eval/..., disc/auc and probes are not comparable with the rows "
                "before: an earlier release read only the first held-out rows and cut the AUC at logits of 10 "
                "(docs/training.md)"
            )
        if self.world.main:
            hardware = {
                "device": device_name(self.world.device),
                "ranks": self.world.size,
                "hosts": len(set(hosts)),
            }
            self.folder.describe(self.recipe, self.deepspeed_json, self.store, self.changed, self.start.step, hardware)
            if self.first is not None:
                self.folder.record_start(self.first.record())
            checkpoint.discard_unfinished(self.folder.checkpoints)
        # A row that is pending is written again.
        self.reporter.open(self.start.step, self.start.step - (self.start.pending is not None), self.recipe)
        closing.callback(self.reporter.close)
        self.reporter.status("running", self.start.step)
        self.started = True
        self.stop.ended_at_once = self.reporter.ended_at_once
        if self.failures is not None:
            self.failures.report = self.reporter.failed
        self.checkpoints.begin(self.start.step)

    def _duties(self, hosts: list[str]) -> list[Duty]:
        """What is done around the steps, in the order in which it is done after each step."""
        found: list[Duty] = [
            StepLines(self.reporter, self.global_steps),
            RankTimes(self.reporter, hosts),
            Heldout(
                self.recipe,
                self.heldout,
                self.micro,
                self.world,
                self.position,
                self.global_steps.poll,
                self.reporter.log,
            ),
            Rows(self.recipe, self.reporter, self.folder.metrics, heldout=self.heldout is not None),
            self.saving,
        ]
        if self.profiled is not None:
            folder, watch = self.folder.path / "profile", self.world.stopwatch
            found.insert(0, Profiling(self.profiled, self.start.step, folder, self.world.device, watch, self.reporter))
        if self.time_slice is not None:
            found.append(SliceCheck(self.time_slice, self.recipe.checkpoint.every, self.start, self.world))
        return found

    def _run_until_the_end_or_a_stop(self, plan: PhasePlan, engine: Engine) -> None:
        try:
            self._run_phases(plan, engine)
            self.reporter.status("finished", self.saving.state.step)
        except Stopped as stop:
            self._report_stop(stop)

    def _report_stop(self, stop: Stopped) -> None:
        step = self.saving.state.step
        self.reporter.status("stopped", step, str(stop))
        if step:
            self.reporter.log(f"stopped at step {step}, which is saved: {stop}; resume with --resume auto")
        else:
            self.reporter.log(f"stopped before the first step: {stop}; nothing to save, start the same command again")

    def _first_engine(self) -> tuple[PhasePlan, Engine]:
        """The phase that this start begins in, and its engine, with the checkpoint's weights if there is one."""
        resumed = self.start.step > 0
        plan = next(plan for plan in self.phases if not resumed or plan.name == self.start.phase)
        # A start may take minutes: first weights, compiling, converting a checkpoint.
        self.global_steps.poll()
        engine = self._engine(self._module(plan.name, fresh=not resumed), plan)
        self.global_steps.poll()
        if resumed:
            self.position.at("loading a checkpoint", self.start.step, long=True)
            self.lines += self.checkpoints.load(engine, self.start)
        return plan, engine

    def _run_phases(self, plan: PhasePlan, engine: Engine) -> None:
        for following in [*self.phases[self.phases.index(plan) + 1 :], None]:
            self._run_phase(plan, engine)
            weights = engine.fp32_state() if following is not None else {}
            engine.close()
            if following is not None:
                plan, module = following, self._module(following.name, fresh=False)
                module.load_state_dict(weights, strict=True)
                if self.recipe.generator_warmup.discriminator_from_generator:
                    module.electra.start_discriminator_from_generator()
                    first = self.recipe.model.init_from
                    head = "is fresh" if first is None else f"stays that of {first}"
                    self.reporter.log(
                        f"the discriminator's encoder starts as the generator's of step {plan.first}; its head {head}"
                    )
                engine = self._engine(module, plan)

    def _run_phase(self, plan: PhasePlan, engine: Engine) -> None:
        state = self.saving.state
        length = self.recipe.data.sequence_length
        work = BatchFlops(
            self.config,
            length,
            plan.name == "joint",
            self.recipe.corruption.uses_generator,
            trained_parts(self.recipe, plan.name),
        )
        meter = Meter(self.recipe.batch.global_batch * length, work, self.peak, self.world.stopwatch)
        for duty in self.duties:
            duty.begin_phase()
        first = max(state.step, plan.first)
        with contextlib.closing(self._feed(first, plan)) as feed:
            batches = MicroBatches(feed, self.world.stopwatch, self.stop.asked)
            try:
                if state.pending is not None:
                    self._after(StepDone(state.step, plan, engine, meter, dict(state.pending), completes_row=True))
                if self.global_steps.looks_ahead(first, plan) and first == state.step > plan.first:
                    if draws_differ(self.changed):
                        self.reporter.log("what was drawn ahead is drawn again, since draws are made otherwise now")
                    else:
                        folder = self.folder.checkpoints / tag_of(first)
                        batches.restore(first, lambda of_step: load_draws(folder, of_step, self.world))
                for step in range(first, plan.last):
                    self._after(self._one_step(step, batches, plan, engine, meter))
            except Stopped:
                # Asked for by the owner's thread, perhaps.
                self.world.from_main(self.checkpoints.confirm)
                self.saving.stop(self.last, plan, engine, batches)
                raise

    def _one_step(self, step: int, batches: MicroBatches, plan: PhasePlan, engine: Engine, meter: Meter) -> StepDone:
        done = step + 1
        logged = done % self.recipe.logging.every == 0 or done == plan.last
        result = self.global_steps.run(step, batches, plan, engine, meter, logged)
        return StepDone(done, plan, engine, meter, result.metrics, result.skipped, result.rank_seconds)

    def _after(self, step: StepDone) -> None:
        self.last = step
        with self.world.stopwatch.part("logging"):
            for duty in self.duties:
                duty.after_step(step)

    def _report_finished(self) -> None:
        """The newest checkpoint has all the steps that are asked for, or more."""
        step, asked = self.start.step, self.recipe.total_steps
        line = f"{self.folder.path} is finished at step {step}; nothing to do"
        if step > asked:
            line += f", since only {asked} steps are asked for (schedule.steps, generator_warmup.steps)"
        if not self.start.finished:
            self.checkpoints.rewrite_state(replace(self.start, finished=True, pending=None))
        if self.world.main:
            print(line)
        self.reporter.total_steps = max(step, asked)
        self.reporter.status("finished", step)
        self.checkpoints.begin(self.start.step)
        self.checkpoints.wait_for_copy(lambda: None)

    def _report_start(self) -> None:
        self.reporter.log(
            headline(self.recipe, self.world, self.micro, self.accumulation, self.start.step, self.loader.samples)
        )
        for line in self.lines:
            self.reporter.log(line)
        for line in cache_lines(self.store, self.loader, self.world, self.recipe.data.prefetch_shards):
            self.reporter.log(line)

    def _feed(self, first: int, plan: PhasePlan) -> Prefetcher[list[Batch]]:
        """This rank's micro-batches of each step of a phase from ``first`` on."""
        share = self.micro * self.accumulation
        pinned = self.world.device.type == "cuda"
        return self.loader.feed(first, plan.last, self.world.rank * share, share, self.micro, plan.mask_share, pinned)

    def _loader(self, split: str) -> Loader:
        return open_loader(self.recipe, self.store, split, self.special, self.budget)

    def _module(self, phase: Phase, fresh: bool) -> PretrainModule:
        """Networks with their first weights; ``fresh`` = these are really trained from, not loaded over."""
        recipe = self.recipe
        module = build_module(recipe, self.config, self.special, phase)
        # The engine sends the main rank's weights to all others.
        if fresh and self.world.main:
            self.first = set_first_weights(module.electra, recipe, self.store, self.reporter.log)
        return module

    def _engine(self, module: PretrainModule, plan: PhasePlan) -> Engine:
        resolved = resolve_deepspeed_json(
            self.deepspeed_json,
            self.recipe.optimizer,
            plan.peak_rate,
            self.micro,
            self.accumulation,
            self.world.size,
            sum(parameter.numel() for parameter in module.parameters()),
            self.recipe.deepspeed,
        )
        return Engine(
            module.to(self.world.device),
            resolved,
            self.recipe.optimizer,
            self.world,
            self.recipe.deepspeed,
        )

    def _peak(self) -> float:
        """FLOP/s of all ranks' devices together, which speed/mfu is a share of."""
        if self.recipe.logging.peak_tflops is not None:
            own, source = self.recipe.logging.peak_tflops * 1e12, "logging.peak_tflops"
        else:
            own, source = peak_flops(self.world.device, precision_of(self.deepspeed_json))
        self.lines.append(f"speed/mfu is a share of {own / 1e12:.4g} TFLOP/s a device ({source})")
        return float(self.world.sum(torch.tensor(own, dtype=torch.float64, device=self.world.device)))


def _collect_garbage_from_now_on() -> None:
    """End the wait of a starting program; what it has made by now is never looked at again."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
