"""From YAML files and the command line to a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from data_pipeline.errors import UserError
from data_pipeline.settings import read_settings
from electra_scale.recipe.recipe import Recipe


def recipe_parser(program: str) -> ArgumentParser:
    """Parser of ``--config FILE`` and ``--section.key value``; ``--help`` explains every setting.

    Of several files and options, each overrides the keys that it names, in the order of the command line.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=program, exit_on_error=False, allow_abbrev=False, description="Pre-train an ELECTRA encoder."
    )
    parser.add_argument(
        "--config", action="config", help="recipe (YAML); may be given several times, later keys override earlier ones"
    )
    parser.add_class_arguments(Recipe, None)
    return parser


def parse_recipe(parser: ArgumentParser, arguments: list[str]) -> tuple[Recipe, Namespace]:
    """The recipe that the arguments describe, and all parsed options.

    Raises UserError, in one line, for a missing file, an unknown key, a wrong type or an impossible setting.
    """
    for path in _config_paths(arguments):
        check_keys(path)
    try:
        parsed = parser.parse_args(arguments)
        options = parser.instantiate(parsed)
    except ArgumentError as error:
        raise UserError(_one_line(str(error))) from error
    except ValueError as error:
        raise UserError(_one_line(str(error))) from error
    names = [part.name for part in dataclasses.fields(Recipe)]
    recipe = Recipe(**{name: options[name] for name in names})
    problems = recipe.problems()
    if problems:
        raise UserError("; ".join(problems))
    return recipe, options


def check_keys(path: Path) -> None:
    """Refuse a recipe file that can't be read or has a key that no setting has; names the nearest one."""
    if not path.is_file():
        raise UserError(f"recipe {path} does not exist; the shipped ones are in recipes/")
    read_settings(path, Recipe, f"recipe {path}")


def _config_paths(arguments: list[str]) -> list[Path]:
    paths = []
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            paths.append(Path(arguments[index + 1]))
        elif argument.startswith("--config="):
            paths.append(Path(argument.removeprefix("--config=")))
    return paths


def _one_line(text: str) -> str:
    return " ".join(text.split())


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain values, as they are written into the run folder."""
    values = dataclasses.asdict(recipe)
    values["optimizer"]["betas"] = list(recipe.optimizer.betas)
    return values


def recipe_of_run(path: Path) -> Recipe:
    """The resolved recipe that a run wrote into its folder; raises UserError if there is none."""
    if not path.is_file():
        raise UserError(f"{path.parent} is not a run folder: it has no {path.name}")
    recipe, _ = parse_recipe(recipe_parser("recipe"), ["--config", str(path)])
    return recipe
