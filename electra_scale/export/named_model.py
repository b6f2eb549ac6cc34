"""A model as a user names it: a run, an export, a folder or hub id of transformers, or random weights of its size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download

from data_pipeline.errors import UserError, first_line
from data_pipeline.places.scratch import scratch_folder
from electra_scale.export.run import export_run
from electra_scale.export.transformers_folder import has_tokenizer, quiet, read_config, read_tokenizer
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder

RANDOM = "random:"
"""What a user writes before a name for weights that are drawn anew."""


@dataclass(frozen=True)
class NamedModel:
    """Folders that transformers opens, and where they come from.

    ``folder``: the discriminator's, or that of the only model there, such as the generator of a checkpoint of its
    warm-up. ``generator``: the generator's, if there is one besides. ``run``, ``step``, ``phase``: the run that they
    were exported from, its step, and the phase of training that saved it; None for a model that is no run. ``random``:
    the weights are drawn anew.
    """

    name: str
    folder: Path
    generator: Path | None = None
    run: Path | None = None
    step: int | None = None
    phase: str | None = None
    random: bool = False

    @property
    def note(self) -> str | None:
        """What a user should know of the encoder of ``folder``; None if it is what one expects."""
        if self.phase == "mlm":
            return f"{self.run} is a masked language model (task.kind mlm), which is the encoder"
        if self.phase != "generator_warmup":
            return None
        return (
            f"step {self.step:,} of {self.run} is of the generator's warm-up, in which no discriminator is trained, so "
            "the encoder is the generator's"
        )


@contextmanager
def named_model(name: str, step: int | None = None, seed: int = 0) -> Iterator[NamedModel]:
    """The model of a name, in folders that last as long as the block.

    Args:
        name: a run folder, a folder that ``export`` wrote, a folder of transformers, a hub id, or ``random:`` and one
            of these for weights that ``seed`` decides.
        step: the checkpoint of a run; the newest if not given.

    Raises:
        UserError: there is no such model, it can't be opened, or ``step`` is given for what is not a run.
    """
    rest = name.removeprefix(RANDOM)
    with tempfile.TemporaryDirectory(dir=scratch_folder(), prefix="electra-scale-model-") as temporary:
        found = _found(name, rest, step, Path(temporary) / "export")
        if name.startswith(RANDOM):
            found = replace(found, random=True, folder=_redrawn(found.folder, Path(temporary) / "random", seed))
            if found.generator is not None:
                found = replace(found, generator=_redrawn(found.generator, Path(temporary) / "generator", seed))
        yield found


def _found(name: str, rest: str, step: int | None, export: Path) -> NamedModel:
    if not rest:
        raise UserError(f"{name!r} names no model; give a run, a folder or a hub id")
    folder = Path(rest)
    run = RunFolder(folder)
    if run.recipe.is_file() and run.checkpoints.is_dir():
        reached, networks = export_run(folder, export, step)
        phase = checkpoint.read_state(run.checkpoints, checkpoint.tag_of(reached)).phase
        first, *others = (export / network for network in networks)
        return NamedModel(name, first, others[0] if others else None, folder, reached, phase)
    if step is not None:
        raise UserError(f"{rest} is no run folder, so it has no checkpoint of step {step}; leave --step out")
    if (folder / "discriminator" / "config.json").is_file():
        generator = folder / "generator" if (folder / "generator" / "config.json").is_file() else None
        return NamedModel(name, folder / "discriminator", generator)
    if (folder / "config.json").is_file():
        return NamedModel(name, folder)
    if (folder / "generator" / "config.json").is_file():
        return NamedModel(name, folder / "generator")
    if folder.exists():
        raise UserError(
            f"{rest} holds no model: it is no run folder (recipe.yaml, checkpoints), no export (discriminator/, "
            "generator/) and no folder of transformers (config.json)"
        )
    return NamedModel(name, _downloaded(rest))


def _downloaded(name: str) -> Path:
    """The folder of a hub id, without code that may come with it."""
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"]))
    except Exception as error:  # the library raises its own, its HTTP client's and the system's errors
        raise UserError(
            f"there is no folder {name!r}, and no model of that name can be had from the hub "
            f"({first_line(error)}); give a run, a folder, or a hub id where the hub can be reached"
        ) from error


def _redrawn(folder: Path, out: Path, seed: int) -> Path:
    """A copy of a folder whose weights are drawn anew, as its class of transformers draws first weights."""
    quiet()
    config: Any = read_config(folder, str(folder))
    kind: Any = getattr(transformers, (config.architectures or [""])[0], None)
    if kind is None:
        raise UserError(
            f"config.json of {folder} names no class of transformers, so random weights of it cannot be drawn; "
            "add architectures to it"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            kind(config).save_pretrained(out)
    except Exception as error:  # a damaged configuration gives whatever its content leads to
        raise UserError(f"{folder} holds no model of transformers that can be opened ({first_line(error)})") from error
    if has_tokenizer(folder):
        read_tokenizer(folder, str(folder)).save_pretrained(out)
    return out
