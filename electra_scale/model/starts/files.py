"""The weights in a folder that transformers saved, by their names, read one by one: no code in them is run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from data_pipeline.errors import UserError, first_line

_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

_OLD = (
    # Names of LayerNorm in checkpoints that were made before 2019.
    (re.compile(r"\.gamma$"), ".weight"),
    (re.compile(r"\.beta$"), ".bias"),
    # A bias that newer releases hold twice.
    (re.compile(r"^cls\.predictions\.decoder\.bias$"), "cls.predictions.bias"),
)


class Weights(Mapping[str, Tensor]):
    """Weights of a folder by name, from one file or several; a tensor is read when it is asked for.

    Args:
        folder: what transformers saved.
        base: name of the encoder inside its models, such as ``bert``: files of an encoder alone lack it.

    Raises:
        UserError: there are none, or they cannot be read.
    """

    def __init__(self, folder: Path, base: str) -> None:
        self.folder = folder
        self._pickled: dict[Path, dict[str, Any]] = {}
        found = next((name for name in _FILES if (folder / name).is_file()), None)
        if found is None:
            raise UserError(f"{folder} holds no weights: none of {', '.join(_FILES)} is there")
        files = self._listed(folder / found) if found.endswith(".json") else self._in_file(folder / found)
        alone = not any(name.startswith(f"{base}.") for name in files)
        self._places: dict[str, tuple[Path, str]] = {}
        for name in sorted(files):
            known = name
            for pattern, instead in _OLD:
                known = pattern.sub(instead, known)
            heads = known.split(".")[0].endswith(("predictions", "head", "cls"))
            self._places.setdefault(f"{base}.{known}" if alone and not heads else known, (files[name], name))

    def __getitem__(self, name: str) -> Tensor:
        path, known = self._places[name]
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt", device="cpu") as file:
                    found: Any = file.get_tensor(known)
            else:
                found = self._unpickled(path)[known]
        except UserError:
            raise
        except Exception as error:  # a damaged file gives whatever its content leads to
            raise UserError(f"cannot read {known} from {path}: {first_line(error)}; restore the file") from error
        if not isinstance(found, Tensor):
            raise UserError(f"{known} in {path} is not a tensor; restore the file")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _listed(self, index: Path) -> dict[str, Path]:
        """Files by name of weight, from the list of a checkpoint in several files."""
        try:
            listed = dict(json.loads(index.read_bytes())["weight_map"])
            files = {str(name): self.folder / str(file) for name, file in listed.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"cannot read {index}: {first_line(error)}; restore it") from error
        for file in sorted({*files.values()}):
            # A list from elsewhere does not lead out of its folder.
            if file.parent != self.folder or not file.is_file():
                raise UserError(f"{index} names {file.name}, which is not in {self.folder}; restore it")
        missing = [name for name, file in files.items() if name not in self._in_file(file)]
        if missing:
            raise UserError(f"{files[missing[0]]} lacks {missing[0]}, which {index.name} says it holds; restore it")
        return files

    def _in_file(self, path: Path) -> dict[str, Path]:
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt", device="cpu") as file:
                    return dict.fromkeys(file.keys(), path)
        except Exception as error:  # a damaged file gives whatever its content leads to
            raise UserError(f"cannot read weights from {path}: {first_line(error)}; restore the file") from error
        return dict.fromkeys(self._unpickled(path), path)

    def _unpickled(self, path: Path) -> dict[str, Any]:
        if path not in self._pickled:
            try:
                # Tensors only: anything else in the pickle is refused and not run.
                loaded = torch.load(path, map_location="cpu", weights_only=True)
                self._pickled[path] = {str(name): value for name, value in dict(loaded).items()}
            except Exception as error:  # a damaged file gives whatever its content leads to
                raise UserError(f"cannot read weights from {path}: {first_line(error)}; restore the file") from error
        return self._pickled[path]
