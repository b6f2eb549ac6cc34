"""Packages that only some users need: importing one that is not installed names the extra that brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from data_pipeline.errors import UserError


def install(extra: str) -> str:
    """The command that installs an extra of this package."""
    return f"pip install 'electra-scale[{extra}]'"


@contextmanager
def needs_extra(extra: str, package: str, feature: str, instead: str = "") -> Iterator[None]:
    """Turn an ImportError inside the block into a line that says what to install.

    Args:
        extra: the extra of this package, as ``pip`` knows it.
        package: what the block imports.
        feature: what the user asked for that needs it.
        instead: what the user can do without it, such as "leave the source out".

    Raises:
        UserError: the package is not installed.
    """
    try:
        yield
    except ImportError as error:
        alternative = f", or {instead}" if instead else ""
        raise UserError(f"{feature} needs {package}, which is not installed: {install(extra)}{alternative}") from error
