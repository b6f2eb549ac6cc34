"""What a run folder tells about the weights that are exported from it, and what it does not tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.errors import UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.json_file import read_record
from data_pipeline.places.open import open_place
from data_pipeline.store.manifest import contents, load_manifest
from electra_scale.export.card_scores import CardScores, scores_of
from electra_scale.export.hardware import Hardware, hardware_in
from electra_scale.recipe.parse import recipe_to_dict
from electra_scale.recipe.recipe import Recipe
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.checkpoint.state import RunState

_PLACES = (
    ("run_dir",),
    ("deepspeed",),
    ("data", "store"),
    ("data", "cache"),
    ("model", "init_from"),
    ("checkpoint", "upload"),
)
"""Settings that name places of one machine, which is nobody else's business."""


@dataclass(frozen=True)
class RunFacts:
    """Facts about exported weights.

    ``steps``: of the checkpoints that were averaged, or the one step; ``state`` is that of the last. ``text``: what
    :func:`contents` says of the store. ``rows``: name of a metric to the step and the value of its last row up to
    there. ``lacking``: what is not known, and why.
    """

    name: str
    recipe: Recipe
    steps: Sequence[int]
    state: RunState
    fingerprint: str | None
    text: Mapping[str, Any] | None
    versions: Mapping[str, str]
    hardware: Sequence[Hardware]
    rows: Mapping[str, tuple[int, float]]
    scores: CardScores
    lacking: Sequence[str]

    @property
    def average(self) -> bool:
        return len(self.steps) > 1

    @property
    def language(self) -> str | None:
        """Of the text, where the build of the store asked for one."""
        return None if self.text is None else self.text["language"]

    @property
    def positions(self) -> int:
        """Positions of all batches up to there, padding among them."""
        return self.state.step * self.recipe.batch.global_batch * self.recipe.data.sequence_length

    def recipe_text(self) -> str:
        """The recipe in YAML, without places of this machine."""
        content = recipe_to_dict(self.recipe)
        for *parents, leaf in _PLACES:
            holder = content
            for parent in parents:
                holder = holder[parent]
            holder.pop(leaf, None)
        text: str = yaml.safe_dump(content, sort_keys=False)
        return text


def facts_of_run(folder: RunFolder, recipe: Recipe, steps: Sequence[int]) -> RunFacts:
    """The facts about the checkpoint of a step, or about the average of several, oldest first.

    What is missing or cannot be read is named in ``lacking``; only the checkpoint itself must be there.
    """
    lacking: list[str] = []
    step = steps[-1]
    state = checkpoint.read_state(folder.checkpoints, checkpoint.tag_of(step))
    data = _record(folder.data, lacking, "the fingerprint of the data")
    fingerprint = str(data["manifest"]) if data and "manifest" in data else None
    rows = _last_rows(folder.metrics, step)
    if not rows:
        lacking.append(f"losses and held-out figures, since the run folder has no rows up to step {step}")
    versions = _record(folder.path / "versions.json", lacking, "the versions of packages") or {}
    hardware = _record(folder.hardware, lacking, "the hardware", hardware_in) or []
    return RunFacts(
        name=folder.path.resolve().name,
        recipe=recipe,
        steps=steps,
        state=state,
        fingerprint=fingerprint,
        text=_text(data, recipe.data.store, lacking),
        versions={str(name): str(version) for name, version in versions.items() if name != "version"},
        hardware=[each for each in hardware if each.step <= step],
        rows=rows,
        scores=scores_of(folder.path, step) if len(steps) == 1 else CardScores([], [], []),
        lacking=lacking,
    )


def _record(path: Path, lacking: list[str], what: str, make: Callable[[dict[str, Any]], Any] = dict) -> Any:
    """What ``make`` builds of a file; None, with a line in ``lacking``, if that can't be done."""
    try:
        found = read_record(path, make, advice="")
    except UserError:
        lacking.append(f"{what}, since {path.name} of the run folder cannot be read")
        return None
    if found is None:
        lacking.append(f"{what}, since the run folder has no {path.name}")
    return found


def _text(data: Mapping[str, Any] | None, store: str, lacking: list[str]) -> Mapping[str, Any] | None:
    """What the run folder says about the text, or, of a run that an earlier release began, a store on this disk."""
    if data and isinstance(data.get("contents"), dict):
        return dict(data["contents"])
    try:
        place = open_place(store)
        manifest = load_manifest(place) if isinstance(place, FolderPlace) else None
    except UserError:
        manifest = None
    if manifest is None or (data or {}).get("manifest") != manifest.fingerprint:
        lacking.append("the sources and the language of the text, since neither the run folder nor its store says")
        return None
    return contents(manifest)


def _last_rows(path: Path, step: int) -> dict[str, tuple[int, float]]:
    """By name, the last value of each metric up to a step and the step of its row."""
    found: dict[str, tuple[int, float]] = {}
    if not path.is_file():
        return found
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
                at = int(row.pop("step"))
                values = {name: float(value) for name, value in row.items() if name != "phase" and value is not None}
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
            if at <= step:
                found |= {name: (at, value) for name, value in values.items()}
    return found
