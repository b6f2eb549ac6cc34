"""Where files lie that a process needs for a moment only."""

from __future__ import annotations

import os
import tempfile

from data_pipeline.errors import UserError


def scratch_folder() -> str:
    """The system's temporary folder; raises UserError if no folder can serve as one."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        named = os.environ.get("TMPDIR")
        tried = f"TMPDIR, which is {named}," if named else "TMPDIR, which is not set,"
        raise UserError(
            f"there is no temporary folder: {tried} /tmp, /var/tmp, /usr/tmp and the current folder are missing, full "
            "or read-only; set TMPDIR to a folder that can be written"
        ) from error
