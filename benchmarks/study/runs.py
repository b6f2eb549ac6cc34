"""Which runs the study consists of, which of them are done, and two of them at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.recipe import Recipe
from electra_scale.train.checkpoint import state as checkpoint

ROOT = Path(__file__).resolve().parents[2]
BASELINE = "electra"
COMMON_SEED = 0
"""The generator of this seed's warm-up is the one that every discriminator is tested against."""
WARMUP_SEEDS = 1000
"""Added to the seed of a warm-up, so that arms train on samples that their generator has not seen."""
AT_A_TIME = 2
PAIRS = 4000
"""Held-out sentences of each kind; with so many a share of 0.9 has an error of 0.005."""
FROZEN = ("cola", "cr", "trec")
"""Tasks of one sentence that a linear classifier over frozen states is trained on."""
TUNED = ("cola", "mrpc", "cr", "conll2000")
"""The tasks of ``downstream.yaml``."""
DOWNSTREAM = Path(__file__).with_name("downstream.yaml")
PARTIAL = "{partial}"
"""In a command: where its output is written until it is whole."""

# Measured on one core of the machine of docs/experiments.md, for the plan's estimate only.
_JOINT_TOKENS_PER_SECOND = 8000.0
_WARMUP_TOKENS_PER_SECOND = 14000.0
_OTHER_SECONDS = 75.0


@dataclass(frozen=True)
class Study:
    """What is studied. ``arms`` are names of files beside ``base.yaml`` in the folder ``recipes``.

    ``data`` has a folder of labelled rows for each task of ``downstream.yaml``; without it nothing is asked of frozen
    or of tuned encoders.
    """

    out: Path
    recipes: Path
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int | None = None
    samples: int = 2048
    data: Path | None = None
    tuned: tuple[str, ...] = ()
    """Arms that are fine-tuned too."""
    probe_samples: int = 64
    probe_draws: int = 32

    @property
    def store(self) -> Path:
        return self.out / "store"

    def warmup(self, seed: int) -> Path:
        """Run folder of a seed's generator warm-up."""
        return self.out / f"seed-{seed}" / "warmup"

    def start(self, seed: int) -> Path:
        """Exported weights that all arms of a seed start from."""
        return self.out / f"seed-{seed}" / "start"

    def run(self, arm: str, seed: int) -> Path:
        """Run folder of an arm and seed."""
        return self.out / f"seed-{seed}" / arm

    def configs(self, arm: str | None = None) -> list[str]:
        """Options that name the recipe's files."""
        files = [self.recipes / "base.yaml"] + ([self.recipes / f"{arm}.yaml"] if arm else [])
        return [option for file in files for option in ("--config", str(file))]

    def recipe(self, arm: str | None = None) -> Recipe:
        """The recipe of an arm, or the base; raises UserError where it is not possible."""
        steps = [] if self.steps is None else ["--schedule.steps", str(self.steps)]
        return parse_recipe(recipe_parser("study"), self.configs(arm) + steps)[0]


def arms_in(recipes: Path) -> tuple[str, ...]:
    """Names of the arms of a folder, the baseline first."""
    names = sorted(file.stem for file in recipes.glob("*.yaml"))
    return (BASELINE, *(name for name in names if name not in (BASELINE, "base")))


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


def warmup_job(study: Study, seed: int) -> Job:
    """The generator alone, from scratch, and one joint step at a fraction of the rate: only then it can be exported."""
    recipe, run, start = study.recipe(), study.warmup(seed), study.start(seed)
    steps = recipe.generator_warmup.steps
    options = [*study.configs(), "--data.store", str(study.store), "--run_dir", str(run)]
    options += ["--seed", str(WARMUP_SEEDS + seed), "--schedule.steps", "1", "--resume", "auto"]
    export = ("-m", "electra_scale.cli", "export", str(run), PARTIAL)
    tokens = steps * recipe.batch.global_batch * recipe.data.sequence_length
    return Job(
        f"seed {seed} warm-up",
        run,
        (
            Task("train", ("-m", "electra_scale.pretrain", *options), lambda: reached(run, steps + 1)),
            Task("export", export, start.exists, output=start),
        ),
        tokens / _WARMUP_TOKENS_PER_SECOND + _OTHER_SECONDS,
    )


def arm_job(study: Study, arm: str, seed: int) -> Job:
    """The joint phase of an arm, then what is measured on its last checkpoint."""
    recipe, run = study.recipe(arm), study.run(arm, seed)
    steps = recipe.schedule.steps
    options = [*study.configs(arm), "--data.store", str(study.store), "--seed", str(seed), "--run_dir", str(run)]
    options += ["--generator_warmup.steps", "0", "--model.init_from", str(study.start(seed))]
    # The start has both networks.
    options += ["--generator_warmup.discriminator_from_generator", "false"]
    options += ["--schedule.steps", str(steps), "--resume", "auto"]
    probe: tuple[str, ...] = ("-m", "electra_scale.cli", "probe", str(run))
    probe += ("--samples", str(study.probe_samples), "--draws", str(study.probe_draws))
    detection = run / "detection.json"
    detect: tuple[str, ...] = (
        "-m",
        "benchmarks.study.detection",
        str(run),
        "--generator",
        str(study.warmup(COMMON_SEED)),
    )
    detect += ("--samples", str(study.samples), "--out", PARTIAL)
    evaluate: tuple[str, ...] = ("-m", "electra_scale.cli", "evaluate", "--model", str(run), "--out", PARTIAL)
    pairs, frozen, tuned = run / "pairs", run / "frozen", run / "tuned"
    tasks = [
        Task("train", ("-m", "electra_scale.pretrain", *options), lambda: reached(run, steps)),
        Task("probe", probe, lambda: probe_file(run, steps).is_file(), optional=True),
        Task("detect", detect, detection.is_file, output=detection),
        Task("pairs", (*evaluate, "--pairs", "--count", str(PAIRS)), pairs.is_dir, output=pairs, optional=True),
    ]
    if study.data is not None:
        folders = [str(study.data / name) for name in FROZEN]
        tasks.append(Task("frozen", (*evaluate, "--linear", *folders), frozen.is_dir, output=frozen))
        if arm in study.tuned:
            # It resumes in its own folder, seed by seed, so that there is nothing to be renamed.
            tune: tuple[str, ...] = ("-m", "electra_scale.cli", "finetune", "--model", str(run), "--out", str(tuned))
            tune += ("--suite", str(DOWNSTREAM), "--data", str(study.data))
            tasks.append(Task("tune", tune, (tuned / "suite.json").is_file))
    tokens = steps * recipe.batch.global_batch * recipe.data.sequence_length
    return Job(
        f"seed {seed} {arm}",
        run,
        tuple(tasks),
        tokens / _JOINT_TOKENS_PER_SECOND + _OTHER_SECONDS,
    )


def plan(study: Study) -> tuple[dict[int, Job], list[tuple[int, Job]]]:
    """The warm-up of each seed, the common one's too; and the arms with their seeds, seed after seed."""
    seeds = dict.fromkeys((COMMON_SEED, *study.seeds))
    warmups = {seed: warmup_job(study, seed) for seed in seeds}
    return warmups, [(seed, arm_job(study, arm, seed)) for seed in study.seeds for arm in study.arms]


def keep_settings(study: Study) -> None:
    """Note what the study is made of; raises UserError if the folder holds one made of something else."""
    path = study.out / "settings.json"
    files = {name: (study.recipes / f"{name}.yaml").read_text() for name in ("base", *study.arms)}
    data = None if study.data is None else str(study.data)
    ours = {"steps": study.steps, "samples": study.samples, "data": data, "recipes": files}
    if path.is_file():
        before = json.loads(path.read_text())
        changed = [name for name in ("steps", "samples") if before[name] != ours[name]]
        # Figures may be asked for later, but not of other rows.
        if before.get("data") not in (None, data):
            changed.append("data")
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

    def run(self, warmups: dict[int, Job], arms: list[tuple[int, Job]], finished: Callable[[], None]) -> list[str]:
        """Run what is not done; ``finished`` is called after each arm. Returns the labels of jobs that failed."""
        self.logs.mkdir(parents=True, exist_ok=True)
        total = sum(bool(job.open_tasks()) for job in [*warmups.values(), *(job for _, job in arms)])
        start, ended = time.monotonic(), 0

        def one(job: Job, needs: list[Future[bool]]) -> bool:
            nonlocal ended
            if not all(needed.result() for needed in needs) or self._stopped.is_set():
                return False
            if not job.open_tasks():
                return True
            good = self._job(job)
            with guard:
                ended += 1
                left = (time.monotonic() - start) / ended * (total - ended)
                result = "done" if good else "FAILED"
                self.report(f"{job.label}: {result} ({ended} of {total}, about {_clock(left)} left)")
                if needs and good:
                    finished()
            return good

        guard = threading.Lock()
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            try:
                # Warm-ups are first in line and wait for nothing, so an arm that waits for one never blocks it.
                started = {seed: pool.submit(one, job, []) for seed, job in warmups.items()}
                futures = [
                    (job.label, pool.submit(one, job, [started[seed], started[COMMON_SEED]])) for seed, job in arms
                ]
                results = [(warmups[seed].label, future.result()) for seed, future in started.items()]
                results += [(label, future.result()) for label, future in futures]
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
