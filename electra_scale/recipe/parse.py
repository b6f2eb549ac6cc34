"""From YAML files and the command line to a recipe."""

from __future__ import annotations

import dataclasses
import os
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from data_pipeline.errors import UserError
from data_pipeline.refused_value import refused_value
from data_pipeline.settings import as_mapping, as_yaml_line, check_keys, read_mapping, refuse_repeated_options
from electra_scale.recipe.kinds import SEAMS, default_kind, settings_class
from electra_scale.recipe.recipe import Recipe
from electra_scale.recipe.shipped import with_recipe_files

_MOVED = {
    "objective.discriminator_weight": "task.discriminator_weight",
    "objective": "corruption",
    "corruption.importance_weights": "corruption.weight_power",
}
"""Settings that earlier releases had under another name; the longer names first, then names of names."""

_REVALUED: dict[str, dict[Any, Any]] = {"corruption.importance_weights": {True: 1.0, False: 0.0, None: None}}
"""What their values are called today, where that has changed too."""


class RecipeParser(ArgumentParser):
    """Parser of ``--config FILE`` and ``--section.key value``; ``--help`` explains every setting.

    The settings of sections that choose a method are those of the kind that the arguments choose, so they are added
    once the arguments are known.
    """

    kinds: Mapping[str, str] | None = None

    def choose(self, kinds: Mapping[str, str]) -> None:
        """Add the settings of the methods chosen, by section."""
        if self.kinds is None:
            self.kinds = kinds
            for section, kind in kinds.items():
                self.add_class_arguments(settings_class(section, kind), section)

    def format_help(self, *arguments: Any, **options: Any) -> str:
        self.choose({section: default_kind(section) for section in SEAMS})
        kinds = "; ".join(f"{section}: {', '.join(known)}" for section, known in SEAMS.items())
        return super().format_help(*arguments, **options) + f"\nkinds that a section can choose: {kinds}\n"


def recipe_parser(program: str) -> RecipeParser:
    """A parser of a recipe, to which a caller may add options of its own.

    Of several files and options, each overrides the keys that it names, in the order of the command line.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = RecipeParser(
        prog=program, exit_on_error=False, allow_abbrev=False, description="Pre-train an ELECTRA encoder."
    )
    parser.add_argument(
        "--config",
        action="config",
        help="recipe: a YAML file, or the name of a shipped one (base, ablation/electra); may be given several times, "
        "later keys override earlier ones",
    )
    parser.add_class_arguments(Recipe, None, skip=set(SEAMS))
    return parser


def pretrain_parser() -> RecipeParser:
    """Parser of a recipe and of what only a start of it has."""
    parser = recipe_parser("electra_scale.pretrain")
    parser.add_argument(
        "--resume",
        choices=["auto", "never"],
        default="never",
        help="auto: resume from the run folder's newest checkpoint, if there is one; never: refuse a folder with a run",
    )
    parser.add_argument(
        "--stop_file",
        type=str,
        help="the run saves and ends with code 0 soon after this file appears; its text is logged as the reason",
    )
    parser.add_argument(
        "--time_slice_minutes",
        type=float,
        help="time that the job is given; a run that could never save in it is refused: with --stop_file start-up, a "
        "step and a save must fit, without it start-up, checkpoint.every steps and a save",
    )
    parser.add_argument(
        "--profile",
        metavar="FROM:TO",
        type=str,
        help="record these steps, such as 10:12, with torch.profiler: a trace for Perfetto and TensorBoard in the run "
        "folder's profile/, of rank 0",
    )
    parser.add_argument("--local_rank", type=int, default=0, help="given by the deepspeed launcher; not read")
    return parser


def parse_recipe(parser: RecipeParser, arguments: list[str], quiet: bool = False) -> tuple[Recipe, Namespace]:
    """The recipe that the arguments describe, and all parsed options.

    A setting under the name of an earlier release is read, and reported in a line unless ``quiet``.

    Raises UserError, in one line, for a missing file, an unknown key, a wrong type or an impossible setting.
    """
    refuse_repeated_options(arguments, Recipe)
    given = list(_given(with_recipe_files(arguments)))
    kinds, given = _kinds(given)
    renamed: set[str] = set()
    parser.choose(kinds)
    chosen = {section: settings_class(section, kind) for section, kind in kinds.items()}
    ready: list[str] = []
    for item in given:
        if isinstance(item, str):
            ready.append(item)
            continue
        check_keys(item.content, Recipe, f"recipe {item.path}", chosen=chosen)
        ready += ["--config", as_yaml_line(_quoted(item.content, Recipe))]
        renamed |= item.renamed
    for argument in arguments:
        renamed |= _renamed_option(argument)[1]
    try:
        options = parser.instantiate(parser.parse_args(ready))
    except (ArgumentError, ValueError) as error:
        raise UserError(refused_value(str(error), Recipe, chosen)) from error
    recipe = Recipe(**{part.name: options[part.name] for part in dataclasses.fields(Recipe)})
    empty = list(_empty(recipe))
    if empty:
        raise UserError(f"the recipe gives no value to {', '.join(empty)}; give one, or leave out the key")
    problems = recipe.problems()
    if problems:
        raise UserError("; ".join(problems))
    # The other ranks of a launch have read the same.
    if renamed and not quiet and os.environ.get("RANK", "0") == "0":
        changes = ", ".join(f"{old} as {_MOVED[old]}" for old in sorted(renamed))
        print(f"the recipe uses names of an earlier release; they are read so: {changes}", file=sys.stderr)
    return recipe, options


@dataclasses.dataclass
class _File:
    """A recipe file of the command line, its settings under their names of today."""

    path: Path
    content: dict[str, Any]
    renamed: set[str]


def _given(arguments: list[str]) -> Iterator[str | _File]:
    """The arguments in order, files read, old names of options and short forms of kinds written out."""
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option == "--config":
            path = value if equals else next(rest, None)
            if path is None:
                yield argument
                return
            yield _read_file(Path(path))
            continue
        new, old = _renamed_option(option)
        for name in old & set(_REVALUED):
            text = value if equals else next(rest, "")
            new_value = _revalued(name, yaml.safe_load(text), f"--{name}")
            equals, value = "=", "null" if new_value is None else str(new_value)
        if new.removeprefix("--") in SEAMS:
            new += ".kind"
        yield new + equals + value


def _read_file(path: Path) -> _File:
    content = read_mapping(path, f"recipe {path}")
    renamed = set()
    for old, new in _MOVED.items():
        *parents, leaf = old.split(".")
        holder: Any = content
        for parent in parents:
            holder = holder.get(parent) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or leaf not in holder:
            continue
        renamed.add(old)
        value = _revalued(old, holder.pop(leaf), f"recipe {path}: {old}")
        section, *rest = new.split(".")
        value = {rest[0]: value} if rest else value
        as_mapping(value, old, f"recipe {path}")
        both = set(content.get(section) or {}) & set(value)
        if both:
            raise UserError(f"recipe {path}: {section}.{min(both)} is there twice, once under its old name {old}")
        content[section] = {**(content.get(section) or {}), **value}
    for section in SEAMS:
        if isinstance(content.get(section), str):
            content[section] = {"kind": content[section]}
    return _File(path, content, renamed)


class _Text(str):
    """A text that stays one in YAML, such as a folder named 1e5."""


yaml.SafeDumper.add_representer(
    _Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"')
)


def _quoted(content: dict[str, Any], section: type[Any]) -> dict[str, Any]:
    """The same settings, fields that hold texts marked as such: parsers of YAML differ in what is a number."""
    found = dict(content)
    for name, kind in typing.get_type_hints(section).items():
        value = found.get(name)
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            found[name] = _quoted(value, typing.cast(type, kind))
        elif isinstance(value, str) and str in (kind, *typing.get_args(kind)):
            found[name] = _Text(value)
    return found


def _kinds(given: list[str | _File]) -> tuple[dict[str, str], list[str | _File]]:
    """The kind of each section that the arguments choose; what an earlier file set for another kind is dropped."""
    kinds = {section: default_kind(section) for section in SEAMS}
    chosen: dict[str, int] = {}
    for place, item in enumerate(given):
        for section, kind in _choices(item, given[place + 1 : place + 2]):
            if kind != kinds[section]:
                kinds[section], chosen[section] = kind, place
            # Known from here on; a kind that does not exist is refused, naming those that do.
            settings_class(section, kind)
    for section, place in chosen.items():
        for item in given[:place]:
            if isinstance(item, _File):
                item.content.pop(section, None)
    return kinds, given


def _choices(item: str | _File, following: list[str | _File]) -> Iterator[tuple[str, str]]:
    if isinstance(item, _File):
        for section in SEAMS:
            settings = item.content.get(section)
            if isinstance(settings, dict) and "kind" in settings:
                yield section, str(settings["kind"])
        return
    option, equals, value = item.partition("=")
    section, dot, key = option.removeprefix("--").partition(".")
    if option.startswith("--") and section in SEAMS and dot and key == "kind":
        following_text = following[0] if following and isinstance(following[0], str) else ""
        yield section, value if equals else following_text


def _renamed_option(option: str) -> tuple[str, set[str]]:
    """An option under its name of today, and the old names that it has been read by."""
    found: set[str] = set()
    if option.startswith("--"):
        for old, new in _MOVED.items():
            name = option.partition("=")[0].removeprefix("--")
            if name == old or name.startswith(f"{old}."):
                option = option.replace(old, new, 1)
                found.add(old)
    return option, found


def _revalued(old: str, value: Any, where: str) -> Any:
    """The value of today for one that a setting had under its old name."""
    known = _REVALUED.get(old)
    if known is None:
        return value
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{where} is {value!r}; it was true, false or null, and is {_MOVED[old]} today")
    return known[value]


def _empty(section: Any, prefix: str = "") -> Iterator[str]:
    """Settings that are null although they need a value: the parser takes null for any."""
    hints = typing.get_type_hints(type(section))
    for part in dataclasses.fields(section):
        value = getattr(section, part.name)
        if value is None and hints[part.name] is not Any and type(None) not in typing.get_args(hints[part.name]):
            yield f"{prefix}{part.name}"
        elif dataclasses.is_dataclass(value):
            yield from _empty(value, f"{prefix}{part.name}.")


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain values, as they are written into the run folder."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(recipe))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def recipe_of_run(path: Path) -> Recipe:
    """The resolved recipe that a run wrote into its folder; raises UserError if there is none."""
    if not path.is_file():
        raise UserError(f"{path.parent} is not a run folder: it has no {path.name}")
    recipe, _ = parse_recipe(recipe_parser("recipe"), ["--config", str(path)], quiet=True)
    return recipe
