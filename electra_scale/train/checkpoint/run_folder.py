"""The run folder: what makes a run reproducible, and what keeps two runs from mixing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from data_pipeline.places.json_file import read_record, write_record
from electra_scale.data.store import Store
from electra_scale.recipe.parse import recipe_to_dict
from electra_scale.recipe.recipe import Recipe

_PACKAGES = ("electra-scale", "torch", "deepspeed", "transformers", "datasets", "pyarrow", "tokenizers", "numpy")


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
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def data(self) -> Path:
        return self.path / "data.json"

    def holds_a_run(self) -> bool:
        """Whether a run has begun here."""
        return self.metrics.exists() or self.checkpoints.exists()

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
        began_with = read_record(
            self.data,
            lambda content: content["tokenizer"],
            advice="start a new run with --run_dir, since the data of this one is unknown",
        )
        if began_with is None:
            return
        found = store.manifest.tokenizer.fingerprint
        if began_with != found:
            raise UserError(
                f"cannot resume {self.path}: it began with tokenizer {began_with}, store {store.url} has {found}; "
                "point data.store at the run's own store, or start a new run with --run_dir"
            )

    def describe(self, recipe: Recipe, deepspeed_json: dict[str, Any], store: Store) -> None:
        """Write recipe, DeepSpeed JSON, versions, data fingerprints and a copy of the tokenizer. One rank calls it."""
        try:
            self._describe(recipe, deepspeed_json, store)
        except OSError as error:
            raise UserError(
                f"cannot write run folder {self.path} ({error.strerror or error}); look at the space on its disk and "
                "at its permissions, or choose another one with --run_dir"
            ) from error

    def _describe(self, recipe: Recipe, deepspeed_json: dict[str, Any], store: Store) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        # What a killed process was about to rename.
        for left in [*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")]:
            left.unlink()
        write_bytes(self.recipe, yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False).encode())
        write_record(self.path / "deepspeed.json", deepspeed_json)
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        write_record(self.path / "versions.json", versions)
        manifest = store.manifest
        data = {"store": store.url, "manifest": manifest.fingerprint, "tokenizer": manifest.tokenizer.fingerprint}
        write_record(self.data, data)
        if not self.tokenizer.exists():
            partial = self.path / ".tokenizer.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(store.tokenizer_dir, partial)
            partial.rename(self.tokenizer)
