"""``electra-scale finetune``: models and tasks from a command line, their scores as lines, a table and files."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import UserError
from data_pipeline.progress import counted, log
from electra_scale.finetune.recipe import Choices
from electra_scale.finetune.suite import Entry, cell, read_suite, shipped_suites, table, write_suite
from electra_scale.finetune.tasks.known import KINDS, TASKS

if TYPE_CHECKING:
    from electra_scale.export.named_model import NamedModel
    from electra_scale.finetune.prepare import Prepared
    from electra_scale.finetune.processes import Processes

_FOLDER = Path("runs/finetune")
"""Where results of models that are no run lie."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``electra-scale finetune``."""
    parser.epilog = "Tasks: " + "; ".join(f"{task.name}: {task.about}" for task in TASKS.values()) + "."
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        help="run folder, export, folder of transformers or hub id; random:MODEL for random weights of its size; "
        "several times to compare",
    )
    parser.add_argument("--step", type=int, help="checkpoint of a run; the newest if not given")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--task",
        action="append",
        help=f"{', '.join(TASKS)}; for your own rows {', '.join(KINDS)}; several times for more",
    )
    what.add_argument("--suite", help=f"YAML file with tasks, or one that comes along: {', '.join(shipped_suites())}")
    rows = parser.add_argument_group("rows")
    rows.add_argument("--data", help="folder with a folder for each task, which holds train.jsonl.gz and so on")
    rows.add_argument("--dataset", help="name of the datasets library, NAME or NAME:CONFIGURATION")
    rows.add_argument("--train", help="file: .jsonl, .csv, .tsv or .parquet, also with .gz")
    rows.add_argument("--validation", help="file that scores are of, and early stopping looks at")
    rows.add_argument("--test", help="file that scores are of with --split test")
    rows.add_argument("--columns", help="what your rows call them: text=review,label=stars", metavar="ROLE=NAME,...")
    rows.add_argument(
        "--labels", help="classes or tags in the order of their ids, with commas; those of train if not given"
    )
    rows.add_argument("--name", help="what a task of your own is called (default: its kind)")
    rows.add_argument("--split", help="split that scores are of: validation or test; the task's own if not given")
    recipe = parser.add_argument_group("recipe (what is not given is ELECTRA's own)")
    recipe.add_argument("--seeds", type=int, help="how many seeds (default 1, or the suite's)")
    recipe.add_argument("--rate", type=float, help="learning rate of the head: by width 3e-4, 1e-4 (512), 5e-5 (1024)")
    recipe.add_argument("--decay", type=float, help="rate of a layer by that of the one above: 0.8, 0.9 from 1024 on")
    recipe.add_argument("--epochs", type=float, help="passes over train: 3; 10 for rte and stsb; 2 for questions")
    recipe.add_argument("--length", type=int, help="pieces of a text: 128, 512 for questions")
    recipe.add_argument("--batch", type=int, default=32, help="rows of a step, over all ranks (default 32)")
    recipe.add_argument("--most-per-device", type=int, default=32, help="rows of a device at once (default 32)")
    recipe.add_argument("--weight-decay", type=float, default=0.01, help="not for norms and biases (default 0.01)")
    recipe.add_argument("--warmup", type=float, default=0.1, help="share of the steps that warm up (default 0.1)")
    recipe.add_argument("--dropout", type=float, help="everywhere; the model's own, and 0.1 in the head if not given")
    recipe.add_argument("--patience", type=int, help="stop after so many epochs without a better score, keep the best")
    recipe.add_argument("--bf16", action="store_true", help="mixed precision, on devices that have it")
    recipe.add_argument("--checkpoint-every", type=int, default=500, help="steps between checkpoints (default 500)")
    parser.add_argument(
        "--license",
        dest="licence",
        help="the hub's identifier of the licence that the card of best/ names; that of the model's own card if not "
        "given",
    )
    parser.add_argument("--out", type=Path, help="folder for results (RUN/finetune/TASK or runs/finetune/MODEL/TASK)")


@dataclass(frozen=True)
class _Job:
    model: NamedModel
    entry: Entry
    out: Path


def run_finetune(options: argparse.Namespace) -> int:
    """Fine-tune every model on every task; raises UserError, before training starts, for what a user can put right."""
    from transformers.utils import logging

    from electra_scale.export.card import check_licence
    from electra_scale.finetune.metrics import require_metrics
    from electra_scale.finetune.processes import joined, reports_errors

    try:
        check_licence(options.licence)
        require_metrics()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        entries, data, seeds = _tasks(options)
        if seeds < 1:
            raise UserError(f"--seeds is {seeds}; it must be at least 1")
        with joined() as processes, ExitStack() as opened:
            _run(options, entries, data, seeds, processes, opened)
    except UserError as error:
        if reports_errors(error):
            raise
        return 2
    return 0


def _tasks(options: argparse.Namespace) -> tuple[list[Entry], str | None, int]:
    """The tasks, the folder for all of them, and how many seeds."""
    single = ("dataset", "train", "validation", "test", "columns", "labels", "name", "split")
    own: dict[str, Any] = {name: value for name in single if (value := getattr(options, name)) is not None}
    if options.suite is not None:
        if own:
            raise UserError(f"--{next(iter(own))} is for one task; a suite's file has it for each of its own")
        suite, entries = read_suite(options.suite)
        return entries, options.data or suite.data, options.seeds or suite.seeds or 1
    if len(options.task) > 1:
        if len(set(options.task)) < len(options.task):
            raise UserError("--task names one task twice; give each once")
        if set(own) - {"split"}:
            raise UserError(f"--{next(iter(set(own) - {'split'}))} is for one task, not for {len(options.task)}")
    if "columns" in own:
        own["columns"] = _mapping(own["columns"])
    if "labels" in own:
        own["labels"] = [label.strip() for label in own["labels"].split(",")]
    # A folder is one task's own where there is only one: it may hold the splits themselves.
    data = options.data if len(options.task) > 1 else None
    if len(options.task) == 1 and options.data is not None:
        own["data"] = options.data
    return [Entry(task, **own) for task in options.task], data, 1 if options.seeds is None else options.seeds


def _mapping(text: str) -> dict[str, str]:
    found = {}
    for part in text.split(","):
        role, equals, name = part.partition("=")
        if not equals or not role.strip() or not name.strip():
            raise UserError(f"--columns {text} is not ROLE=NAME,ROLE=NAME, such as text=review,label=stars")
        found[role.strip()] = name.strip()
    return found


def _run(
    options: argparse.Namespace,
    entries: Sequence[Entry],
    data: str | None,
    seeds: int,
    processes: Processes,
    opened: ExitStack,
) -> None:
    from electra_scale.export.named_model import named_model
    from electra_scale.finetune.prepare import prepare, read_examples
    from electra_scale.finetune.seeds import claim, fine_tune

    fields = [field.name for field in dataclasses.fields(Choices)]
    choices = Choices(**{name: getattr(options, name) for name in fields})
    # Names of tasks first: to export a run may take a minute.
    for entry in entries:
        entry.resolve(data)
    if len(set(options.model)) < len(options.model):
        raise UserError("--model names one model twice; give each once")
    models = [opened.enter_context(named_model(name, options.step)) for name in options.model]
    jobs = [_Job(model, entry, _out(options, model, entry, len(entries))) for entry in entries for model in models]

    def prepared(job: _Job) -> Prepared:
        own = job.entry.choices(choices)
        return prepare(job.model, read_examples(*job.entry.resolve(data), own.patience), own, processes.size)

    ready = None
    for job in jobs:
        # All are checked before the first one trains, and not kept: a suite may be larger than memory.
        ready = prepared(job)
        claimed, out = ready, job.out
        processes.from_main(lambda claimed=claimed, out=out: claim(claimed, out))  # type: ignore[misc]
    results = []
    for job in jobs:
        if len(jobs) > 1 or ready is None:
            ready = prepared(job)
        results.append(fine_tune(ready, seeds, job.out, processes, options.licence))
        ready = None
    if processes.is_main:
        _print(jobs, results, _suite_folder(options, models))


def _print(jobs: Sequence[_Job], results: Sequence[dict[str, Any]], folder: Path) -> None:
    for job, result in zip(jobs, results, strict=True):
        best = result["best"]["seed"]
        scores = next(seed["scores"] for seed in result["seeds"] if seed["seed"] == best)
        print(
            f"{result['task']}, {result['model']}: {result['metric']} {cell(result)} on {result['split']} "
            f"({counted(len(result['seeds']), 'seed')}); best {scores[result['metric']]:.4f} (seed {best}) in "
            f"{job.out / result['best']['folder']}"
        )
    if len(jobs) > 1:
        write_suite(folder, results)
        print(f"\n{table(results)}")
        log(f"table in {folder / 'suite.md'} and {folder / 'suite.json'}")


def _out(options: argparse.Namespace, model: NamedModel, entry: Entry, tasks: int) -> Path:
    """The folder of one model's results on one task."""
    task = _as_name(entry.name or entry.task)
    if options.out is not None:
        out: Path = options.out
        if len(options.model) > 1:
            out = out / _as_name(model.name)
        return out / task if tasks > 1 or options.suite is not None else out
    return _home(model) / task


def _home(model: NamedModel) -> Path:
    if model.run is not None:
        return model.run / "finetune" / "random" if model.random else model.run / "finetune"
    return _FOLDER / _as_name(model.name)


def _suite_folder(options: argparse.Namespace, models: Sequence[NamedModel]) -> Path:
    if options.out is not None:
        out: Path = options.out
        return out
    return _home(models[0]) if len(models) == 1 else _FOLDER


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.") or "model"
