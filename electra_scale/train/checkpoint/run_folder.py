"""The run folder: what makes a run reproducible, and what keeps two runs from mixing."""

from __future__ import annotations

import contextlib
import filecmp
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import sha256_of, write_bytes
from data_pipeline.places.json_file import read_record, write_record
from data_pipeline.store.manifest import contents
from electra_scale.cluster.software import PACKAGES
from electra_scale.data.store import Store
from electra_scale.recipe.deepspeed_json import parse_deepspeed_json
from electra_scale.recipe.parse import recipe_of_run, recipe_to_dict
from electra_scale.recipe.recipe import Recipe
from electra_scale.recipe.resuming import Change, Settings

MEASURES = 2
"""How figures of held-out text are made; raised where a change makes those of earlier releases another thing.

2: rows are spread over the held-out text, and the AUC is exact. 1, not written down: the first rows, logits cut at 10.
"""


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def deepspeed(self) -> Path:
        return self.path / "deepspeed.json"

    @property
    def changes(self) -> Path:
        return self.path / "changes.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def data(self) -> Path:
        return self.path / "data.json"

    @property
    def hardware(self) -> Path:
        return self.path / "hardware.json"

    def record_start(self, record: Mapping[str, Any]) -> None:
        """Write ``init_from.json``: what the first weights of each part of the model were."""
        write_record(self.path / "init_from.json", record)

    def holds_a_run(self) -> bool:
        """Whether a run has left work here, a row or anything of a checkpoint; a start that failed leaves neither."""
        rows = self.metrics.exists() and self.metrics.stat().st_size > 0
        return rows or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))

    def refuse_to_overwrite(self) -> None:
        """Raise UserError if a run has begun here."""
        if self.holds_a_run():
            raise UserError(
                f"{self.path} already holds a run; resume it with --resume auto, or choose another folder with "
                "--run_dir"
            )

    def append_to_log(self, line: str) -> None:
        """A line of the log file from a rank that does not write it otherwise."""
        # A full disk must not end the run because of a line, or hide why the run ends.
        if self.path.is_dir():
            with contextlib.suppress(OSError), (self.path / "log.txt").open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def check_tokenizer(self, store: Store) -> None:
        """Raise UserError if the run began with another tokenizer than the store has."""
        began_with = self._tokenizer_of_run()
        if began_with is None:
            return
        found = store.manifest.tokenizer.fingerprint
        if began_with != found:
            raise UserError(
                f"cannot resume {self.path}: it began with tokenizer {began_with}, store {store.url} has {found}; "
                "point data.store at the run's own store, or start a new run with --run_dir"
            )

    def refuse_other_tokenizer(self, fingerprint: str) -> None:
        """Raise UserError if the tokenizer in the folder is not the one with this fingerprint: ids would be others."""
        path = self.tokenizer / "tokenizer.json"
        try:
            found = sha256_of(path)
        except OSError as error:
            found = f"missing ({error.strerror})"
        if found != fingerprint:
            raise UserError(
                f"{path} is {found}, but the run was trained with {fingerprint}: copy the folder tokenizer of the "
                "run's store there"
            )

    def measures(self) -> int:
        """How the release that last started the run made its figures of held-out text; the present way if none did."""
        found = read_record(
            self.data, lambda content: int(content.get("measures", 1)), advice="restore it, or delete it to go on"
        )
        return MEASURES if found is None else found

    def settings(self) -> Settings | None:
        """What the last start of the run was made of; None if the folder does not say.

        Raises UserError for files that are there and cannot be read.
        """
        if not self.recipe.exists():
            return None
        try:
            recipe = recipe_of_run(self.recipe)
            content = None
            if self.deepspeed.exists():
                content = parse_deepspeed_json(self.deepspeed.read_text("utf-8"), str(self.deepspeed))
        except (OSError, ValueError, UserError) as error:
            raise UserError(
                f"cannot resume {self.path}: what it was trained with cannot be read ({error}); restore that file, or "
                "remove it to resume without a comparison of the settings"
            ) from error
        return Settings(recipe, content)

    def describe(
        self,
        recipe: Recipe,
        deepspeed_json: dict[str, Any],
        store: Store,
        changed: Sequence[Change] = (),
        step: int = 0,
        hardware: Mapping[str, Any] | None = None,
    ) -> None:
        """Write recipe, DeepSpeed JSON, versions, data fingerprints and a copy of the tokenizer. One rank calls it.

        What ``changed`` where the run resumes at ``step`` is added to the list of changes, and the ``hardware`` of this
        start to that of earlier ones, if it is another.
        """
        try:
            self._describe(recipe, deepspeed_json, store)
            if hardware is not None:
                self._add_hardware(step, hardware)
            if changed:
                with self.changes.open("a") as file:
                    file.writelines(json.dumps(change.record(step)) + "\n" for change in changed)
        except OSError as error:
            raise UserError(
                f"cannot write run folder {self.path} ({error.strerror or error}); look at the space on its disk and "
                "at its permissions, or choose another one with --run_dir"
            ) from error

    def _describe(self, recipe: Recipe, deepspeed_json: dict[str, Any], store: Store) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        # What a killed process was about to rename; this one may be writing another file.
        for left in [*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")]:
            if f".{os.getpid()}." not in left.name:
                left.unlink(missing_ok=True)
        manifest = store.manifest
        data = {
            "store": store.url,
            "manifest": manifest.fingerprint,
            "tokenizer": manifest.tokenizer.fingerprint,
            "measures": MEASURES,
            "contents": contents(manifest),
        }
        if self.tokenizer.exists():
            began_with = self._tokenizer_of_run()
            if began_with is None and _differ(self.tokenizer, store.tokenizer_dir):
                raise UserError(
                    f"{self.tokenizer} is not of a run, and is another tokenizer than that of store {store.url}; "
                    "choose another folder with --run_dir"
                )
            # Of a start that failed, with another store; a run that resumes has been checked to have this one's.
            if began_with not in (None, data["tokenizer"]):
                shutil.rmtree(self.tokenizer)
        if not self.tokenizer.exists():
            partial = self.path / ".tokenizer.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(store.tokenizer_dir, partial)
            partial.rename(self.tokenizer)
        write_bytes(self.recipe, yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False).encode())
        write_record(self.deepspeed, deepspeed_json)
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        write_record(self.path / "versions.json", versions)
        write_record(self.data, data)

    def _add_hardware(self, step: int, hardware: Mapping[str, Any]) -> None:
        try:
            starts = read_record(self.hardware, lambda content: list(content["starts"]), advice="") or []
        except UserError:
            # It is there for people only.
            starts = []
        if not starts or {**starts[-1], "step": step} != {"step": step, **hardware}:
            write_record(self.hardware, {"version": 1, "starts": [*starts, {"step": step, **hardware}]})

    def _tokenizer_of_run(self) -> str | None:
        """Fingerprint of the tokenizer that the run, or a start that failed, began with; None if nothing says."""
        return read_record(
            self.data,
            lambda content: str(content["tokenizer"]),
            advice="start a new run with --run_dir, since the data of this one is unknown",
        )


def _differ(folder: Path, other: Path) -> bool:
    """Whether two folders have other files, or files with another content."""
    files = [sorted(path.name for path in each.iterdir()) for each in (folder, other)]
    return files[0] != files[1] or any(filecmp.cmpfiles(folder, other, files[0], shallow=False)[1:])
