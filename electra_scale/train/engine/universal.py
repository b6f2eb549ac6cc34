"""A checkpoint in DeepSpeed's universal form, which any number of ranks can load."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import tempfile
from pathlib import Path

import torch

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import sync_folder
from data_pipeline.places.plain_path import plain_path
from electra_scale.cluster.ranks import Alone
from electra_scale.train.checkpoint import checksums
from electra_scale.train.engine import pickles

FOLDER = "universal"
"""Name of the converted form, inside the checkpoint's own folder."""

_PARTIAL = f"{FOLDER}.partial-"


def convert(checkpoint: Path) -> Path:
    """The universal form of a whole checkpoint, made now unless it is there already.

    It is made under another name and renamed when all of it is on disk, so whatever has the name is whole. One rank
    calls it. Raises UserError if it can't be made, or if files of the checkpoint may run code.
    """
    target, alone = checkpoint / FOLDER, Alone(torch.device("cpu"))
    if target.is_symlink() or target.is_file():
        target.unlink()
    if target.is_dir():
        if checksums.problem(target) is None:
            pickles.refuse_unsafe(target, alone)
            return target
        shutil.rmtree(target)
    pickles.refuse_unsafe(checkpoint, alone)
    for left in checkpoint.glob(f"{_PARTIAL}*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=checkpoint))
        try:
            made = partial / FOLDER
            _convert(checkpoint, made)
            names = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
            checksums.write_list(made, checksums.sums_of(made, names))
            os.rename(made, target)
            sync_folder(checkpoint)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (OSError, RuntimeError) as error:
        # torch.save turns a full disk into a RuntimeError.
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"checkpoint {checkpoint} could not be converted for another number of ranks ({reason}); look at the space "
            "on its disk, or start as many ranks as wrote it"
        ) from error
    return target


def _convert(source: Path, target: Path) -> None:
    """DeepSpeed's own converter, in this process and without its many lines."""
    from deepspeed.checkpoint import ds_to_universal

    with plain_path(source) as plain_source, plain_path(target.parent) as plain_parent:
        options = argparse.Namespace(
            input_folder=str(plain_source),
            output_folder=str(plain_parent / target.name),
            # With one worker it makes no processes, which would import torch again for a few seconds of copying.
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=False,
        )
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            pickles.restricted(source),
        ):
            ds_to_universal.main(options)
