"""What a run says when the disk does not take a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from electra_scale.data.prefetch import DataError


@contextmanager
def writing(checkpoint: Path) -> Iterator[None]:
    """Raise DataError, with what to do, where a file of the checkpoint can't be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save turns a full disk into a RuntimeError, as other ranks' failures are.
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"cannot write checkpoint {checkpoint} ({reason}); free some space on its disk, then go on with "
            "--resume auto"
        ) from error
