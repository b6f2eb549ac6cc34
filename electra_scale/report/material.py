"""What a report is made of: the files of a run folder, read whole or missing with a note."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.errors import UserError
from data_pipeline.places.json_file import read_record
from data_pipeline.progress import counted
from electra_scale.export.hardware import Hardware, hardware_in
from electra_scale.recipe.deepspeed_json import leaves
from electra_scale.report.log import Log, read_log
from electra_scale.report.rows import Rows, read_rows
from electra_scale.report.scores import Shown, shown_scores
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.lifecycle.status import Status, read_status

_OWN = ("run_dir", "deepspeed")
"""Settings that say where files are, and so nothing about what was trained; the DeepSpeed JSON is compared itself."""

_DEEPSPEED = "DeepSpeed JSON: "


@dataclass(frozen=True)
class Run:
    """The material of one run. ``label``: what the page calls it. ``settings``: of recipe and DeepSpeed JSON, by path.

    ``hardware``: as the run recorded it, an entry for each start on other machines than before.
    ``notes``: a line for each file that is missing or cannot be read, and for each row left out.
    """

    path: Path
    label: str
    rows: Rows
    log: Log
    scores: Shown
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, Any]
    changes: tuple[Mapping[str, Any], ...]
    status: Status | None
    hardware: tuple[Hardware, ...]
    notes: tuple[str, ...]

    def setting(self, key: str, default: Any = None) -> Any:
        return self.settings.get(key, default)

    @property
    def positions(self) -> int:
        """Positions of a global step; 0 if the recipe does not say."""
        found = (self.setting("batch.global_batch"), self.setting("data.sequence_length"))
        return found[0] * found[1] if all(type(value) is int for value in found) else 0


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read run folders; the same one twice counts once.

    Raises:
        UserError: a path is not a run folder.
    """
    distinct = list({path.resolve(): path for path in paths}.values())
    names = _short_names(distinct)
    return [_read_run(path, name) for path, name in zip(distinct, names, strict=True)]


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(len(each) for each in parts) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _read_run(path: Path, label: str) -> Run:
    folder = RunFolder(path)
    if not path.is_dir():
        raise UserError(f"{path} is not a run folder: there is no such folder; give the run_dir of a recipe")
    if not (folder.recipe.is_file() or folder.metrics.is_file()):
        raise UserError(f"{path} is not a run folder: it has neither recipe.yaml nor metrics.jsonl")
    notes: list[str] = []
    rows, log, scores = read_rows(folder.metrics), read_log(path / "log.txt"), shown_scores(path)
    settings = leaves(_yaml(folder.recipe, notes))
    settings |= {f"{_DEEPSPEED}{key}": value for key, value in leaves(_json(folder.deepspeed, notes)).items()}
    try:
        status = read_status(path)
    except UserError as error:
        status = None
        notes.append(str(error))
    if rows.damaged:
        notes.append(f"{folder.metrics.name} has {counted(rows.damaged, 'line')} that cannot be read; left out")
    if rows.repeated:
        notes.append(
            f"{folder.metrics.name} has {counted(rows.repeated, 'row')} of steps that a later row has again; the later "
            "ones are shown"
        )
    return Run(
        path,
        label,
        rows,
        log,
        scores,
        {key: value for key, value in settings.items() if key not in _OWN},
        _json(folder.data, notes),
        _json(path / "versions.json", notes),
        tuple(_changes(folder.changes, notes)),
        status,
        tuple(_hardware(folder.hardware, notes)),
        (*notes, *scores.unread),
    )


def _hardware(path: Path, notes: list[str]) -> list[Hardware]:
    try:
        # Runs of earlier releases have none, and their log says something.
        return read_record(path, hardware_in, advice="its hardware is not shown") or []
    except UserError as error:
        notes.append(str(error))
        return []


def _yaml(path: Path, notes: list[str]) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a mapping")
        return {str(key): value for key, value in content.items()}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read ({_reason(error)})")
        return {}


def _json(path: Path, notes: list[str]) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        return content
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read ({_reason(error)})")
        return {}


def _changes(path: Path, notes: list[str]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    if not path.is_file():
        return found
    try:
        for line in path.read_text("utf-8").splitlines():
            change = json.loads(line)
            found.append({name: change[name] for name in ("step", "setting", "from", "to")})
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read ({_reason(error)})")
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def differences(runs: Sequence[Run]) -> list[tuple[str, list[Any]]]:
    """Settings that are not the same in all runs, with the value in each; None where a run does not have it."""
    keys = {key: None for run in runs for key in run.settings}
    found = [(key, [run.settings.get(key) for run in runs]) for key in keys]
    return [(key, values) for key, values in found if any(value != values[0] for value in values[1:])]
