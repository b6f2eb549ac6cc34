"""Finds the files that come with the package, by name and from any current folder: recipes, DeepSpeed JSONs, scripts.

In a checkout they lie at its top, in ``recipes/``, ``ds_configs/`` and ``slurm/``; a wheel holds the same folders in
``electra_scale/shipped``.
"""

from __future__ import annotations

from pathlib import Path

from data_pipeline.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
_CONFIG = "--config"


def shipped_folder(name: str) -> Path:
    """The folder ``recipes``, ``ds_configs`` or ``slurm`` of this installation."""
    installed = _PACKAGE / "shipped" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def shipped_names(folder: str, suffix: str) -> list[str]:
    """Names by which the files of a shipped folder are asked for: ``tiny``, ``ablation/electra``."""
    root = shipped_folder(folder)
    names = (path.relative_to(root).with_suffix("").as_posix() for path in root.rglob(f"*{suffix}"))
    return sorted(names, key=lambda name: (name.count("/"), name))


def find_recipe(given: str) -> Path:
    """The recipe that a user gave as a file or as the name of a shipped one; raises UserError if it is neither."""
    return _find(given, "recipe", "recipes", ".yaml")


def find_deepspeed_json(given: str) -> Path:
    """The DeepSpeed JSON that a recipe names, by file or by the name of a shipped one; raises UserError for neither."""
    return _find(given, "DeepSpeed JSON", "ds_configs", ".json")


def _find(given: str, kind: str, folder: str, suffix: str) -> Path:
    """A file that exists wins over a shipped one; ``folder/name.suffix`` names the same shipped file as ``name``."""
    if Path(given).is_file():
        return Path(given)
    names = shipped_names(folder, suffix)
    name = given.removeprefix(f"{folder}/").removesuffix(suffix)
    if name not in names:
        raise UserError(f"{kind} {given} does not exist; give a file, or one of the shipped ones: {', '.join(names)}")
    return shipped_folder(folder) / f"{name}{suffix}"


def with_recipe_files(arguments: list[str]) -> list[str]:
    """A command line in which each ``--config NAME`` and ``--config=NAME`` names the recipe's file.

    Raises UserError for a recipe that is neither a file nor shipped.
    """
    found = list(arguments)
    for index, argument in enumerate(found):
        if index and found[index - 1] == _CONFIG:
            found[index] = str(find_recipe(argument))
        elif argument.startswith(f"{_CONFIG}="):
            found[index] = f"{_CONFIG}={find_recipe(argument.removeprefix(f'{_CONFIG}='))}"
    return found
