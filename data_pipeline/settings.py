"""Strict reading of settings from YAML: a key that no setting has is refused, with the nearest one that exists."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.errors import UserError

_MERGE = "tag:yaml.org,2002:merge"


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
    content = read_mapping(path, where)
    check_keys(content, section, where)
    return content


def read_mapping(path: str | Path, where: str) -> dict[str, Any]:
    """The content of a YAML file of keys and values, each key once.

    Raises:
        UserError: the file cannot be read or holds something else; the message names it as ``where``.
    """
    try:
        text = Path(path).read_text("utf-8")
        refuse_repeated_keys(text, where)
        content = yaml.load(text, Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{where} does not exist: check the path after --config") from None
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}; check the file and its permissions") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{where} must hold keys and values such as `key: value`, not {type(content).__name__}")
    return content


class _Loader(yaml.SafeLoader):
    """YAML without surprises: of what merge keys bring, the nearest wins, also where one mapping merges another that
    merges a third."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        own: list[tuple[yaml.Node, yaml.Node]] = []
        merged: list[tuple[yaml.Node, yaml.Node]] = []
        for key, value in node.value:
            if key.tag != _MERGE:
                own.append((key, value))
                continue
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(part, yaml.MappingNode):
                    raise yaml.constructor.ConstructorError(None, None, "a merge key needs a mapping", part.start_mark)
                self.flatten_mapping(part)
                merged += part.value
        taken = {(key.tag, str(key.value)) for key, _ in own}
        brought = []
        for key, value in merged:
            if (name := (key.tag, str(key.value))) not in taken:
                taken.add(name)
                brought.append((key, value))
        node.value = brought + own


def refuse_repeated_keys(text: str, where: str) -> None:
    """Refuse a YAML text in which a mapping has one key twice, of which YAML's loaders silently drop the first.

    What a merge key (``<<``) brings may be overridden, as everywhere.

    Raises:
        UserError: naming the key and both lines; ``where`` is what the message calls the text.
        yaml.YAMLError, ValueError, RecursionError: the text is not YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        # Nodes are compared before any value is made of them: making one copies what a merge key brings among the
        # keys that stand there.
        waiting, seen = [loader.get_single_node()], set()
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                waiting += node.value
            elif isinstance(node, yaml.MappingNode):
                _refuse_repeated(loader, node, where)
                waiting += [part for pair in node.value for part in pair]
    finally:
        loader.dispose()


def _refuse_repeated(loader: yaml.SafeLoader, node: yaml.MappingNode, where: str) -> None:
    lines: dict[object, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            continue
        # Two spellings of one value, such as yes and true, are one key.
        value = loader.construct_object(key)
        line = key.start_mark.line + 1
        if value in lines:
            places = f"lines {lines[value]} and {line}" if lines[value] != line else f"line {line}"
            raise UserError(f"{where}: the key {key.value} is given twice, in {places}: keep one of them")
        lines[value] = line


def as_yaml_line(content: Mapping[str, Any]) -> str:
    """The content of a file in one line of YAML, to hand it to a parser of options that would read the file itself."""
    return yaml.safe_dump(content, default_flow_style=True, width=sys.maxsize).strip()


def refuse_repeated_options(arguments: Sequence[str], section: type[Any]) -> None:
    """Refuse a command line in which the YAML of an option's value, or of a file that it names, has one key twice.

    Args:
        section: the dataclass of all settings; options named after its own sections take files.

    Raises:
        UserError: naming the option and the key.
    """
    hints = typing.get_type_hints(section)
    takes_file = {f"--{name}" for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    option = ""
    for argument in arguments:
        value = argument
        if argument.startswith("--"):
            option, _, value = argument.partition("=")
        where = option or "the command line"
        # What is not YAML is for the option's own parser to refuse.
        with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError, OSError):
            if "{" in value or "\n" in value:
                refuse_repeated_keys(value, where)
            elif option in takes_file and value:
                refuse_repeated_keys(Path(value).read_text("utf-8"), f"{where} {value}")


def check_keys(
    content: Mapping[Any, Any],
    section: type[Any],
    where: str,
    prefix: str = "",
    chosen: Mapping[str, type[Any]] | None = None,
) -> None:
    """Refuse keys that are not fields of the dataclass ``section``, nor in what it holds of sections, lists and
    mappings of sections.

    Args:
        where: what messages call the source of the content.
        prefix: the name of the section itself, such as ``model.``.
        chosen: dataclasses of fields whose type is chosen elsewhere, by the fields' names.

    Raises:
        UserError: an unknown key, with the nearest one; something else than keys and values in a section's place.
    """
    hints = typing.get_type_hints(section) | dict(chosen or {})
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
        elif typing.get_origin(kind) is dict and dataclasses.is_dataclass(entry := typing.get_args(kind)[1]):
            for label, part in as_mapping(value, name, where).items():
                place = f"{name}.{label}"
                check_keys(as_mapping(part, place, where), typing.cast(type, entry), where, f"{place}.")


def as_mapping(value: object, key: str, where: str) -> dict[str, Any]:
    """The value of a key if it is a mapping; raises UserError if it is not."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key} must hold keys and values, not {value!r}")
    return value


def too_small(section: str, settings: object, **least: int) -> list[str]:
    """A sentence for each setting of a section that is below the least value that it may have."""
    return [
        f"{section}.{name} is {getattr(settings, name)}; it must be at least {value}"
        for name, value in least.items()
        if getattr(settings, name) < value
    ]
