"""Several tasks and several models under one recipe: a suite's file goes in, one table of results comes out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from data_pipeline.places.json_file import write_record
from data_pipeline.settings import as_mapping, check_keys, read_mapping
from electra_scale.finetune.recipe import Choices
from electra_scale.finetune.tasks.known import KINDS, known_task
from electra_scale.finetune.tasks.rows import SPLITS, Source
from electra_scale.finetune.tasks.task import ROLES, Task, own_task

_SUITES = Path(__file__).parent / "suites"
_NUMBERS = {"epochs", "rate", "decay"}


@dataclass(frozen=True)
class Entry:
    """One task as the command line or a suite's file names it.

    ``task`` is a known task, or a kind of task for a user's own rows, called ``name``. ``columns`` says what the rows
    call the roles of the kind. What is None is as elsewhere: in the suite, on the command line, of the task itself.
    """

    task: str
    name: str | None = None
    data: str | None = None
    dataset: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    labels: list[str] | None = None
    split: str | None = None
    epochs: float | None = None
    length: int | None = None
    rate: float | None = None
    decay: float | None = None

    def resolve(self, data: str | None) -> tuple[Task, Source]:
        """The task with its columns and split, and where its rows are; ``data``: the folder for all tasks.

        Raises:
            UserError: there is no such task, role or split, or its rows are named in two ways.
        """
        files = {split: Path(path) for split in SPLITS if (path := getattr(self, split)) is not None}
        given = [name for name, value in (("files", files), ("dataset", self.dataset), ("data", self.data)) if value]
        if len(given) > 1:
            raise UserError(f"task {self.task} has its rows from {' and from '.join(given)}; give one of them")
        folder = self.data or (data if not given else None)
        source = Source(Path(folder) if folder else None, files, self.dataset)
        if self.task in KINDS and not (files or self.dataset or folder):
            raise UserError(
                f"--task {self.task} is for your own rows; give --train and --validation, --data or --dataset"
            )
        task = self._own(files) if self.task in KINDS else self._known()
        if self.split is not None:
            if self.split not in ("validation", "test"):
                raise UserError(f"--split is {self.split}; score on validation or test")
            task = dataclasses.replace(task, scored_on=self.split, further={})
        return task, source

    def _known(self) -> Task:
        task = known_task(self.task)
        if self.labels is not None:
            raise UserError(f"task {task.name} has labels of its own; leave --labels out")
        unknown = [role for role in self.columns if role not in ROLES[task.kind]]
        if unknown:
            raise UserError(f"--columns names {unknown[0]}; {task.name} has {', '.join(ROLES[task.kind])}")
        columns = {**task.columns, **self.columns}
        return dataclasses.replace(task, name=self.name or task.name, columns=columns)

    def _own(self, files: Mapping[str, Path]) -> Task:
        kind = next(kind for kind in KINDS if kind == self.task)
        roles = ROLES[kind]
        unknown = [role for role in self.columns if role not in roles]
        if unknown:
            raise UserError(f"--columns names {unknown[0]}; {kind} has {', '.join(roles)}")
        if kind not in ("classification", "tagging") and self.labels is not None:
            raise UserError(f"--labels is for classification and tagging, not for {kind}")
        columns = {role: self.columns.get(role, role) for role in roles if role in self.columns or role != "text2"}
        task = own_task(kind, self.name or kind, columns, tuple(self.labels) if self.labels else None)
        only_test = files and "validation" not in files and "test" in files
        return dataclasses.replace(task, scored_on="test") if only_test else task

    def choices(self, general: Choices) -> Choices:
        """What is chosen for this task, else what is chosen for all."""
        own = {name: getattr(self, name) for name in ("epochs", "length", "rate", "decay")}
        return dataclasses.replace(general, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class Suite:
    """Tasks that belong together; ``data`` and ``seeds`` are for all of them."""

    tasks: list[Any]
    data: str | None = None
    seeds: int | None = None


def read_suite(given: str) -> tuple[Suite, list[Entry]]:
    """The suite in a YAML file, or a shipped one by its name.

    Raises:
        UserError: there is no such suite, or it has a key or value that a suite has not.
    """
    path = Path(given)
    if not path.is_file():
        path = _SUITES / f"{given}.yaml"
        if not path.is_file():
            raise UserError(f"suite {given} does not exist; give a file, or one of {', '.join(shipped_suites())}")
    where = f"suite {given}"
    content = read_mapping(path, where)
    check_keys(content, Suite, where)
    tasks = content.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        raise UserError(f"{where}: tasks must be a list with a task at least")
    suite = Suite(**content)
    if suite.seeds is not None and (not isinstance(suite.seeds, int) or suite.seeds < 1):
        raise UserError(f"{where}: seeds is {suite.seeds!r}; it must be a whole number of at least 1")
    entries = [_entry(part, index, where) for index, part in enumerate(tasks)]
    names = [entry.name or entry.task for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: there are two tasks {twice}; give each a name of its own (name: ...)")
    return suite, entries


def _entry(part: Any, index: int, where: str) -> Entry:
    if isinstance(part, str):
        return Entry(part)
    place = f"tasks[{index}]"
    content = as_mapping(part, place, where)
    check_keys(content, Entry, where, f"{place}.")
    if "task" not in content:
        raise UserError(f"{where}: {place} has no key task")
    kinds: dict[str, tuple[type, ...]] = {
        "columns": (dict,),
        "labels": (list,),
        "length": (int,),
        **dict.fromkeys(_NUMBERS, (int, float)),
    }
    for key, value in content.items():
        if key in _NUMBERS and isinstance(value, str):
            # YAML takes 1e-3, without a point, for text; recipes and the command line take it for a number.
            with contextlib.suppress(ValueError):
                content[key] = value = float(value)
        expected = kinds.get(key, (str,))
        if isinstance(value, bool) or not isinstance(value, expected):
            raise UserError(f"{where}: {place}.{key} is {value!r}; it must be of type {expected[-1].__name__}")
    return Entry(**content)


def shipped_suites() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(path.stem for path in _SUITES.glob("*.yaml"))


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each model, a column for each task, mean and standard deviation of its main metric."""
    tasks = list(dict.fromkeys(f"{result['task']} ({result['metric']})" for result in results))
    cells: dict[str, dict[str, str]] = {}
    for result in results:
        cells.setdefault(_model(result), {})[f"{result['task']} ({result['metric']})"] = cell(result)
    lines = ["| model | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    lines += [f"| {model} | " + " | ".join(row.get(task, "") for task in tasks) + " |" for model, row in cells.items()]
    return "\n".join(lines)


def _model(result: Mapping[str, Any]) -> str:
    return str(result["model"]) + ("" if result["step"] is None else f", step {result['step']}")


def cell(result: Mapping[str, Any]) -> str:
    """Mean and deviation of the main metric, such as ``0.531 ± 0.012``."""
    mean, deviation = (result[key][result["metric"]] for key in ("mean", "deviation"))
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


def write_suite(out: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """``out/suite.json`` with all results, and ``out/suite.md`` with their table."""
    out.mkdir(parents=True, exist_ok=True)
    write_record(out / "suite.json", {"version": 1, "results": list(results)})
    seeds = sorted({len(result["seeds"]) for result in results})
    count = " or ".join(map(str, seeds))
    text = f"Mean ± standard deviation over {count} seed{'' if seeds == [1] else 's'}.\n\n{table(results)}\n"
    write_bytes(out / "suite.md", text.encode())
