"""The error of a run whose disk has no room for a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.errors import OneRankError
from data_pipeline.places.atomic import disk_full

_OF_TORCH_SAVE = ("inline_container", "iostream error")
"""What torch.save makes of a full disk, in a RuntimeError: where it writes, and where it closes a small file."""


@contextmanager
def writing(checkpoint: Path) -> Iterator[None]:
    """Raise OneRankError, with what to do, where a file of the checkpoint can't be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # Other ranks' failures are RuntimeErrors too.
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _OF_TORCH_SAVE):
            raise
        reason = str(error).partition("\n")[0]
        full = isinstance(error, RuntimeError) or disk_full(error)
        cure = "free some space on its disk" if full else "check the path and its permissions"
        raise OneRankError(
            f"cannot write checkpoint {checkpoint} ({reason}); {cure}, then resume with --resume auto"
        ) from error
