"""A study: every arm of a folder of recipes with every seed, in the background, into one table and plots.

python -m benchmarks.study.study --corpus FOLDER --out runs/study
python -m benchmarks.study.study --recipes recipes/learned --corpus FOLDER --data FOLDER --out runs/learned

See docs/experiments.md for its design and what the columns mean.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType

from benchmarks.study.arms import DOWNSTREAM, ROOT, Study, arms_in
from benchmarks.study.runs import AT_A_TIME, Runner, environment, keep_settings, plan
from data_pipeline.errors import UserError
from data_pipeline.report.plots import check_plots


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare ways of drawing replacements.")
    parser.add_argument("--corpus", type=Path, help="text: a file or a folder; needed until the store is built")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder for everything (runs/study)")
    parser.add_argument("--arms", nargs="+", help="names of arms (all files of the recipes folder)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--steps", type=int, help="joint steps (as in base.yaml)")
    parser.add_argument("--samples", type=int, default=2048, help="held-out samples of the common test (2048)")
    parser.add_argument("--pairs", type=int, default=4000, help="held-out pairs of sentences of each kind (4000)")
    parser.add_argument(
        "--recipes", type=Path, default=ROOT / "recipes/ablation", help="folder with base.yaml and the arms"
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with a folder of labelled rows for each task; without it encoders are not tuned",
    )
    parser.add_argument("--tuned", nargs="+", default=[], help="arms that are fine-tuned too (none)")
    parser.add_argument(
        "--suite", type=Path, default=DOWNSTREAM, help="tasks, seeds and epochs of fine-tuning (downstream.yaml)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and about how long it takes")
    parser.add_argument("--report", action="store_true", help="write table and plots of what is finished, run nothing")
    parser.add_argument("--foreground", action="store_true", help="run here and now, not in the background")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Exit code 2, with one line on stderr, for what the user can put right; 1 if a run failed."""
    options = arguments(given)
    try:
        study = chosen(options)
        if options.dry_run:
            print(plan_text(study))
            return 0
        check_plots()
        if options.report:
            if not (study.out / "settings.json").is_file():
                raise UserError(f"{study.out} holds no study; name its folder with --out")
            _write_report(study)
            return 0
        check_corpus(study, options.corpus)
        keep_settings(study)
        lock = take_lock(study.out)
        if options.foreground:
            return run_all(study, options.corpus, lock)
        os.close(lock)
        start_in_background(study, sys.argv[1:] if given is None else given)
    except UserError as error:
        print(f"study: error: {error}", file=sys.stderr)
        return 2
    return 0


def chosen(options: argparse.Namespace) -> Study:
    """The study that the options describe; raises UserError for an arm that is not there or not possible."""
    known = arms_in(options.recipes)
    unknown = [arm for arm in (*(options.arms or ()), *options.tuned) if arm not in known]
    if unknown:
        raise UserError(f"no arm is called {', '.join(unknown)}; there are {', '.join(known)}")
    if options.tuned and options.data is None:
        raise UserError("--tuned needs labelled rows: name their folder with --data")
    data = None if options.data is None else options.data.resolve()
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data} is not a folder; it must hold a folder for each task")
    if not options.suite.is_file():
        raise UserError(f"--suite {options.suite} is not a file; name one with tasks (docs/finetune.md)")
    study = Study(
        options.out.resolve(),
        options.recipes.resolve(),
        tuple(options.arms or known),
        tuple(dict.fromkeys(options.seeds)),
        options.steps,
        options.samples,
        data,
        tuple(options.tuned),
        options.suite.resolve(),
        options.pairs,
    )
    baseline = study.baseline
    if not options.arms:
        study = replace(study, arms=tuple(sorted(known, key=lambda arm: (arm != baseline, arm))))
    plan(study)
    return study


def plan_text(study: Study) -> str:
    """What would be run, what of it is done, what each arm costs if the store is built, and how long the rest takes."""
    from benchmarks.study.cost import costs

    jobs = plan(study)
    lines, left = [], 0.0
    for job in jobs:
        open_tasks = job.open_tasks()
        left += job.seconds if open_tasks else 0.0
        lines.append(f"{job.label:<36} {', '.join(task.label for task in open_tasks) or 'done'}")
    minutes = left / AT_A_TIME / 60
    lines += [
        f"{arm:<36} {cost.flops / 1e12:,.2f} TFLOP, {cost.tokens / 1e6:,.2f} M positions, warm-up included"
        for arm, cost in costs(study).items()
    ]
    lines.append(f"{len(jobs)} runs in {study.out}, {AT_A_TIME} at a time: about {minutes:.0f} min on two free cores")
    return "\n".join(lines)


def check_corpus(study: Study, corpus: Path | None) -> None:
    """Raises UserError if the store is still to be built and there is nothing to build it from."""
    if (study.store / "manifest.json").is_file():
        return
    if corpus is None:
        raise UserError(f"{study.store} is not built yet: name the text to build it from with --corpus FOLDER")
    from electra_scale.commands.demo import own_sources

    own_sources(corpus)


def take_lock(out: Path) -> int:
    """A locked descriptor; raises UserError while another study, or a run that one left behind, holds it."""
    descriptor = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"a study is running in {out}, or a run that it left behind: follow it with tail -f {out}/study.log"
        ) from None
    return descriptor


def start_in_background(study: Study, given: list[str]) -> None:
    """Start this program again, in a session of its own, and print how to follow it."""
    log = study.out / "study.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.study.study", *given, "--foreground"],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(),
        )
    print(plan_text(study).splitlines()[-1])
    print(f"running in the background as process {process.pid}")
    print(f"  follow   tail -f {log}")
    print(f"  stop     kill {process.pid}   (the same command resumes it)")
    print(f"  results  {study.out}/study.md, study.json, plots/ (renewed after each arm)")


def run_all(study: Study, corpus: Path | None, lock: int) -> int:
    """Store, warm-ups, arms, report."""
    signal.signal(signal.SIGTERM, _stop)
    if not (study.store / "manifest.json").is_file():
        assert corpus is not None
        _log(f"store: {study.store}")
        build(study.store, corpus)
    runner = Runner(study.out / "logs", _log, lock)
    failed = runner.run(plan(study), finished=lambda: _write_report(study, quiet=True))
    _write_report(study)
    if failed:
        _log(f"failed: {', '.join(failed)}; see {study.out}/logs, then run the same command to try them again")
    return 1 if failed else 0


def build(store: Path, corpus: Path) -> None:
    """Tokenizer and shards, as the demo makes them."""
    from data_pipeline.build.build import build_store
    from electra_scale.commands.demo import own_sources, small_store

    build_store(small_store(store, own_sources(corpus)))


def _write_report(study: Study, quiet: bool = False) -> None:
    from benchmarks.study.report import report

    path = report(study)
    if not quiet:
        _log(f"table: {path}; plots: {study.out}/plots")


def _log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _stop(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
