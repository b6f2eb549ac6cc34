"""From what a user names to something that can be looked into."""

from __future__ import annotations

import json
from pathlib import Path

from electra_scale.export.named_model import NamedModel, named_model
from electra_scale.inside.folder import OpenedFolder
from electra_scale.inside.inside import Inside
from electra_scale.inside.run import open_checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder


def open_run(run: Path | str, step: int | None = None) -> Inside:
    """A run's newest checkpoint, or that of ``step``; raises UserError as :func:`open_checkpoint` does."""
    return Inside(open_checkpoint(Path(run), step))


def open_named(name: str, step: int | None = None) -> Inside:
    """A run with its sampler, or the networks of whatever else a user names (electra_scale/export/named_model.py).

    Raises UserError if there is no such model, or none with a head of a generator or a discriminator.
    """
    folder = RunFolder(Path(name))
    if folder.recipe.is_file() and folder.checkpoints.is_dir():
        return open_run(folder.path, step)
    with named_model(name, step) as named:
        # The weights are read before the block ends, after which a temporary folder is gone.
        if named.generator is None and _generates(named):
            return Inside(OpenedFolder(name, None, named.folder))
        return Inside(OpenedFolder(name, named.folder, named.generator))


def _generates(named: NamedModel) -> bool:
    """Whether the only network there is one for masked prediction."""
    try:
        kinds = json.loads((named.folder / "config.json").read_text("utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        # What opens the network says what is wrong.
        return False
    return any(str(kind).endswith("ForMaskedLM") for kind in kinds)
