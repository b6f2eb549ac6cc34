"""What a run says when the disk does not take a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from electra_scale.data.retry_budget import DataError

_OF_TORCH_SAVE = ("inline_container", "iostream error")
"""What torch.save makes of a full disk, in a RuntimeError: where it writes, and where it closes a small file."""


@contextmanager
def writing(checkpoint: Path) -> Iterator[None]:
    """Raise DataError, with what to do, where a file of the checkpoint can't be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # Other ranks' failures are RuntimeErrors too.
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _OF_TORCH_SAVE):
            raise
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"cannot write checkpoint {checkpoint} ({reason}); free some space on its disk, then go on with "
            "--resume auto"
        ) from error
