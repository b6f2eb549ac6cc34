"""Which runs the study consists of, which of them are done, and two of them at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study.arms import ROOT, Study, Warmup
from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from electra_scale.recipe.recipe import Recipe
from electra_scale.train.checkpoint import state as checkpoint

COMMON_SEED = 0
"""The generators of this seed's warm-ups are those that every discriminator is tested against."""
WARMUP_SEEDS = 1000
"""Added to the seed of a warm-up, so that arms train on samples that their generator has not seen; and to that of an
arm without one, which begins with the weights and the samples of a warm-up."""
AT_A_TIME = 2
FROZEN = ("cola", "cr", "trec")
"""Tasks of one sentence that a linear classifier over frozen states is trained on."""
PARTIAL = "{partial}"
"""In a command: where its output is written until it is whole."""

# Measured on one core of the machine of docs/experiments.md, for the plan's estimate only.
_JOINT_TOKENS_PER_SECOND = 8000.0
_WARMUP_TOKENS_PER_SECOND = 14000.0
_OTHER_SECONDS = 75.0

_PRETRAIN = ("-m", "electra_scale.pretrain")
_CLI = ("-m", "electra_scale.cli")


@dataclass(frozen=True)
class Task:
    """A command, and whether it has been done. ``output`` appears under its name only when the command succeeded."""

    label: str
    command: tuple[str, ...]
    done: Callable[[], bool]
    output: Path | None = None
    optional: bool = False


@dataclass(frozen=True)
class Job:
    """Tasks that follow each other on one core."""

    label: str
    folder: Path
    tasks: tuple[Task, ...]
    seconds: float
    needs: tuple[str, ...] = ()
    """Labels of jobs that come before it in a plan and must have succeeded."""

    def open_tasks(self) -> list[Task]:
        """What is still to be done."""
        return [task for task in self.tasks if not task.done()]


def reached(run: Path, step: int) -> bool:
    """Whether a run has a finished checkpoint of a step, or a later one."""
    state = checkpoint.newest(run / "checkpoints")
    return state is not None and state.step >= step


def probe_file(run: Path, step: int) -> Path:
    """What ``electra-scale probe`` writes."""
    return run / "probe" / f"{checkpoint.tag_of(step)}.json"


def warmup_job(study: Study, seed: int, warmup: Warmup) -> Job:
    """The generator alone, from scratch, and one joint step at a fraction of the rate: only then it can be exported."""
    recipe, run, start = study.recipe(warmup.arm), study.warmup(seed, warmup), study.start(seed, warmup)
    steps = recipe.generator_warmup.steps
    options = [*study.configs(warmup.arm), "--data.store", str(study.store), "--run_dir", str(run)]
    options += ["--seed", str(WARMUP_SEEDS + seed), "--schedule.steps", "1", "--resume", "auto"]
    tokens = steps * recipe.batch.global_batch * recipe.data.sequence_length
    return Job(
        _warmup_label(seed, warmup),
        run,
        (
            Task("train", (*_PRETRAIN, *options), lambda: reached(run, steps + 1)),
            Task("export", (*_CLI, "export", str(run), PARTIAL), start.exists, output=start),
        ),
        tokens / _WARMUP_TOKENS_PER_SECOND + _OTHER_SECONDS,
    )


def _warmup_label(seed: int, warmup: Warmup) -> str:
    return f"seed {seed} warm-up" + (f" of {warmup.arm}" if warmup.arm else "")


def arm_job(study: Study, arm: str, seed: int) -> Job:
    """The joint phase of an arm, or all of an arm without a warm-up, then what is measured on its last checkpoint."""
    recipe, run, warmup = study.recipe(arm), study.run(arm, seed), study.starts[arm]
    steps, detects = recipe.schedule.steps, recipe.task.detects
    options = [*study.configs(arm), "--data.store", str(study.store), "--run_dir", str(run)]
    if warmup is None:
        options += ["--seed", str(WARMUP_SEEDS + seed)]
    else:
        options += ["--seed", str(seed), "--generator_warmup.steps", "0"]
        # The start has both networks.
        options += ["--generator_warmup.discriminator_from_generator", "false"]
        options += ["--model.init_from", str(study.start(seed, warmup))]
    options += ["--schedule.steps", str(steps), "--resume", "auto"]
    tasks = [Task("train", (*_PRETRAIN, *options), lambda: reached(run, steps))]
    if detects and recipe.logging.probe_every:
        probe = ("--samples", str(study.probe_samples), "--draws", str(study.probe_draws))
        tasks.append(
            Task("probe", (*_CLI, "probe", str(run), *probe), lambda: probe_file(run, steps).is_file(), optional=True)
        )
    tasks += _measured(study, recipe, run)
    if study.data is not None and arm in study.tuned:
        # It resumes in its own folder, seed by seed, so that there is nothing to be renamed.
        tuned = run / "tuned"
        tune: tuple[str, ...] = ("finetune", "--model", str(run), "--out", str(tuned))
        tune += ("--suite", str(study.suite), "--data", str(study.data))
        tasks.append(Task("tune", (*_CLI, *tune), (tuned / "suite.json").is_file))
    rate = _JOINT_TOKENS_PER_SECOND if detects else _WARMUP_TOKENS_PER_SECOND
    tokens = steps * recipe.batch.global_batch * recipe.data.sequence_length
    needed = dict.fromkeys([(COMMON_SEED, each) for each in study.warmups] + ([(seed, warmup)] if warmup else []))
    return Job(
        f"seed {seed} {arm}",
        run,
        tuple(tasks),
        tokens / rate + _OTHER_SECONDS,
        tuple(_warmup_label(*each) for each in needed),
    )


def _measured(study: Study, recipe: Recipe, run: Path) -> list[Task]:
    """What is asked of the networks as they are; of one without a discriminator, what it predicts."""
    detection = run / "detection.json"
    common = [str(study.warmup(COMMON_SEED, warmup)) for warmup in study.warmups]
    detect = ("-m", "benchmarks.study.detection", str(run), "--generator", *common)
    detect += ("--samples", str(study.samples), "--out", PARTIAL)
    tasks = [Task("detect", detect, detection.is_file, output=detection)]

    def evaluated(label: str, folder: str, *options: str, optional: bool = False) -> None:
        command = (*_CLI, "evaluate", "--model", str(run), "--out", PARTIAL, *options)
        out = run / folder
        tasks.append(Task(label, command, out.is_dir, output=out, optional=optional))

    pairs = ("--pairs", "--count", str(study.pairs))
    if recipe.task.detects:
        evaluated("pairs", "pairs", *pairs, optional=True)
    if study.has_masked_alone:
        evaluated("pairs by generator", "pairs_by_generator", *pairs, "--pairs-by", "generator", optional=True)
        text = ("--masked-tokens", str(study.store), "--passages", str(study.samples))
        evaluated("masked tokens", "masked", *text, "--length", str(recipe.data.sequence_length))
    if study.data is not None:
        evaluated("frozen", "frozen", "--linear", *(str(study.data / name) for name in FROZEN))
    return tasks


def plan(study: Study) -> list[Job]:
    """All jobs in order: seed after seed its warm-ups and then its arms, after those of the common seed."""
    jobs: list[Job] = []
    for seed in dict.fromkeys((COMMON_SEED, *study.seeds)):
        needed = set(study.warmups) if seed == COMMON_SEED else {study.starts[arm] for arm in study.arms}
        jobs += [warmup_job(study, seed, warmup) for warmup in study.warmups if warmup in needed]
        jobs += [arm_job(study, arm, seed) for arm in study.arms if seed in study.seeds]
    return jobs


def keep_settings(study: Study) -> None:
    """Note what the study is made of; raises UserError if the folder holds one made of something else."""
    path = study.out / "settings.json"
    files = {name: (study.recipes / f"{name}.yaml").read_text() for name in ("base", *study.arms)}
    data = None if study.data is None else str(study.data)
    suite = study.suite.read_text() if study.tuned else None
    numbers = {name: getattr(study, name) for name in ("steps", "samples", "pairs")}
    ours = {**numbers, "data": data, "suite": suite, "recipes": files}
    if path.is_file():
        before = json.loads(path.read_text())
        changed = [name for name, value in numbers.items() if before.get(name, value) != value]
        # Figures may be asked for later, but not of other rows, and not of other tasks.
        changed += [name for name in ("data", "suite") if before.get(name) not in (None, ours[name])]
        changed += [f"{name}.yaml" for name, text in files.items() if before["recipes"].get(name, text) != text]
        if changed:
            raise UserError(
                f"{study.out} holds a study with other settings ({', '.join(changed)}): restore them, or give another "
                "folder with --out"
            )
        ours["recipes"] = before["recipes"] | files
    study.out.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(ours, indent=1).encode() + b"\n")


class Runner:
    """Runs jobs, two at a time, one thread each."""

    def __init__(self, logs: Path, report: Callable[[str], None], lock: int | None = None) -> None:
        """``report`` gets a line about each job and task that ends. ``lock`` is a descriptor that every process gets,
        so that a lock on it lasts as long as any of them."""
        self.logs, self.report, self.lock = logs, report, lock
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()

    def run(self, jobs: Sequence[Job], finished: Callable[[], None]) -> list[str]:
        """Run what is not done of a plan; ``finished`` is called after each job that others had to come before.

        Returns the labels of jobs that failed.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        total = sum(bool(job.open_tasks()) for job in jobs)
        start, ended = time.monotonic(), 0
        guard = threading.Lock()
        futures: dict[str, Future[bool]] = {}

        def one(job: Job) -> bool:
            nonlocal ended
            # What it waits for has been started before it, so it never blocks that.
            if not all(futures[needed].result() for needed in job.needs) or self._stopped.is_set():
                return False
            if not job.open_tasks():
                return True
            good = self._job(job)
            with guard:
                ended += 1
                left = (time.monotonic() - start) / ended * (total - ended)
                result = "done" if good else "FAILED"
                self.report(f"{job.label}: {result} ({ended} of {total}, about {_clock(left)} left)")
                if job.needs and good:
                    finished()
            return good

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            try:
                for job in jobs:
                    futures[job.label] = pool.submit(one, job)
                results = [(label, future.result()) for label, future in futures.items()]
            except BaseException:
                self.stop()
                raise
        return [label for label, good in results if not good]

    def stop(self) -> None:
        """End what runs; a later call of the study resumes from its checkpoints."""
        self._stopped.set()
        for process in list(self._processes):
            process.terminate()

    def _job(self, job: Job) -> bool:
        for task in job.open_tasks():
            if self._stopped.is_set():
                return False
            start = time.monotonic()
            log = self.logs / f"{job.label.replace(' ', '-')}.log"
            good = self._task(task, log) and task.done()
            if good:
                self.report(f"{job.label}: {task.label} took {time.monotonic() - start:.0f} s")
            elif task.optional:
                self.report(f"{job.label}: {task.label} failed, so its figures are not measured; see {log}")
            else:
                self.report(f"{job.label}: {task.label} failed; see {log}")
                return False
        return True

    def _task(self, task: Task, log: Path) -> bool:
        command = [sys.executable, *task.command]
        if task.output is not None:
            partial = task.output.with_name(f".{task.output.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.unlink(missing_ok=True)
            command = [str(partial) if part == PARTIAL else part for part in command]
        with log.open("ab") as sink:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(),
                stdout=sink,
                stderr=subprocess.STDOUT,
                pass_fds=() if self.lock is None else (self.lock,),
            )
            self._processes.add(process)
            if self._stopped.is_set():
                process.terminate()
            code = process.wait()
            self._processes.discard(process)
        if code == 0 and task.output is not None:
            partial.rename(task.output)
        return code == 0


def environment() -> dict[str, str]:
    """Of every process of the study: the CPU, one thread, this checkout."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    settings = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **settings}


def _clock(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"
