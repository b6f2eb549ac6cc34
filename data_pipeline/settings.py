"""Strict reading of settings from YAML: a key that no setting has is refused, with the nearest one that exists."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.errors import UserError


def nearest(name: str, valid: Sequence[str], prefix: str = "") -> str:
    """A hint such as ``did you mean workers?``, or the list of valid names; ``prefix`` stands before each name."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean {prefix}{close[0]}?" if close else f"valid are: {', '.join(valid)}"


def read_settings(path: str | Path, section: type[Any], where: str) -> dict[str, Any]:
    """The settings in a YAML file, with no other keys than the fields of the dataclass ``section``.

    Args:
        where: what messages call the file, its path included.

    Raises:
        UserError: the file cannot be read, is not a YAML mapping, or see :func:`check_keys`.
    """
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{where} does not exist: check the path after --config") from None
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}; check the file and its permissions") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{where} must hold keys and values such as `key: value`, not {type(content).__name__}")
    check_keys(content, section, where)
    return content


def check_keys(content: Mapping[Any, Any], section: type[Any], where: str, prefix: str = "") -> None:
    """Refuse keys that are not fields of the dataclass ``section``, in its sections and lists of sections too.

    Args:
        where: what messages call the source of the content.
        prefix: the name of the section itself, such as ``model.``.

    Raises:
        UserError: an unknown key, with the nearest one; something else than keys and values in a section's place.
    """
    hints = typing.get_type_hints(section)
    fields = [field.name for field in dataclasses.fields(section)]
    for key, value in content.items():
        name = f"{prefix}{key}"
        if key not in fields:
            raise UserError(f"{where}: unknown key {name}; {nearest(str(key), fields, prefix)}")
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            check_keys(as_mapping(value, name, where), typing.cast(type, kind), where, f"{name}.")
        elif typing.get_origin(kind) is list and dataclasses.is_dataclass(entry := typing.get_args(kind)[0]):
            if not isinstance(value, list):
                raise UserError(f"{where}: {name} must be a list (lines that start with a dash), not {value!r}")
            for index, part in enumerate(value):
                place = f"{name}[{index}]"
                check_keys(as_mapping(part, place, where), typing.cast(type, entry), where, f"{place}.")


def as_mapping(value: object, key: str, where: str) -> dict[str, Any]:
    """The value of a key if it is a mapping; raises UserError if it is not."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key} must hold keys and values, not {value!r}")
    return value
