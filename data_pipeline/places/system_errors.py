"""The line for an error of the operating system that nothing nearer to its cause has turned into one."""

from __future__ import annotations

from data_pipeline.errors import UserError
from data_pipeline.places.scratch import scratch_folder


def refused_by_system(error: OSError) -> UserError:
    """What to report; raises the error itself where it names no file, so that the line would say nothing."""
    if error.filename is not None:
        return UserError(
            f"cannot use {error.filename}: {error.strerror}; check the path, its permissions and the space on its disk"
        )
    try:
        # Libraries look for it while they are imported.
        scratch_folder()
    except UserError as missing:
        return missing
    raise error
