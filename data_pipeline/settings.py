"""Reading typed settings strictly: unknown keys are refused, with the nearest that there is."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.errors import UserError


def nearest(name: str, valid: Sequence[str]) -> str:
    """A hint such as ``did you mean 'workers'?``, or the list of valid names."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid are: {', '.join(valid)}"


def _as_mapping(value: object, key: str, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: {key} must hold keys and values, not {type(value).__name__}")
    return value


def _check_keys(mapping: Mapping[Any, Any], section: type[Any], prefix: str, path: str) -> None:
    valid = [field.name for field in dataclasses.fields(section)]
    for key in mapping:
        if key not in valid:
            raise UserError(f"unknown key '{prefix}{key}' in {path}: {nearest(str(key), valid)}")


def too_small(section: str, settings: object, **least: int) -> list[str]:
    """A sentence for each setting of a section that is below the least value that it may have."""
    return [
        f"{section}.{name} is {getattr(settings, name)}; it must be at least {value}"
        for name, value in least.items()
        if getattr(settings, name) < value
    ]
