"""A panic of a library that is written in Rust, as an error that its caller can handle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise ValueError for a panic inside the block: it is no Exception, and a damaged file can cause one."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the library failed: {str(error).strip()}") from error
