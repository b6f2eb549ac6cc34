"""What to say of a value that a setting cannot take: the parser names Python's types, users know numbers and lists."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

_KEY = re.compile(r'^Parser key "(?P<key>[^"]+)":')
_VALUE = re.compile(r"(?:Got value|Given value): (?P<value>.*)$|Unable to load config '(?P<config>.*)' - Parser key ")
_SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def refused_value(message: str, section: type[Any], chosen: Mapping[str, type[Any]] | None = None) -> str:
    """One line for a message of jsonargparse: ``KEY is VALUE; it must be ...`` where it is about a setting's value.

    Args:
        message: what jsonargparse says.
        section: dataclass of all settings.
        chosen: dataclasses of fields whose type is chosen elsewhere, by the fields' names.
    """
    text = " ".join(message.split())
    key, value = _KEY.search(text), _VALUE.search(text)
    if key is None or value is None:
        return text
    kind = _kind_of(key["key"], section, chosen or {})
    if kind is None:
        return text
    wanted = _either(_described(kind))
    if dataclasses.is_dataclass(kind):
        wanted += f"; or set one of them, as in --{key['key']}.{dataclasses.fields(kind)[0].name}"
    return f"{key['key']} is {value['value'] or value['config']}; it must be {wanted}"


def _kind_of(key: str, section: type[Any], chosen: Mapping[str, type[Any]]) -> Any:
    kind: Any = section
    for name in key.split("."):
        if not dataclasses.is_dataclass(kind):
            return None
        hints = typing.get_type_hints(kind) | (dict(chosen) if kind is section else {})
        if name not in hints:
            return None
        kind = hints[name]
    return kind


def _described(kind: Any) -> list[str]:
    """What a setting can be: one of these."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind in _SCALARS:
        return [_SCALARS[kind]]
    if origin is typing.Literal:
        return [str(part) for part in parts]
    if origin in (typing.Union, types.UnionType):
        return [one for part in parts for one in _described(part)]
    if origin is tuple and parts[-1] is not Ellipsis:
        return [f"a list of {len(parts)} ({', '.join(_either(_described(part)) for part in parts)})"]
    if origin in (list, tuple):
        return [f"a list of which each entry is {_either(_described(parts[0]))}"]
    if dataclasses.is_dataclass(kind):
        fields = ", ".join(field.name for field in dataclasses.fields(kind))
        return [f"a mapping of {fields}, or the name of a YAML file with one"]
    return ["a mapping"] if origin is dict else [str(kind)]


def _either(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"
