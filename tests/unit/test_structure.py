"""The structure that a newcomer relies on: imports go down and never round, folders are small, each says what it is."""

from __future__ import annotations

import ast
import functools
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("data_pipeline", "electra_scale", "benchmarks")
MOST_MODULES, MOST_LINES = 16, 450

FLOORS = {
    "data_pipeline": (
        ("errors", "extras", "json_lines", "outputs", "progress", "refused_value", "settings", "signals"),
        ("places",),
        ("store",),
        ("config",),
        ("read", "clean"),
        ("tokenize", "deduplicate"),
        ("build", "report", "corpus"),
        ("command_line",),
        ("cli", "__main__"),
    ),
    "electra_scale": (
        ("recipe", "cluster", "native"),
        ("model", "data", "corruption"),
        ("tasks", "monitor"),
        ("optim", "train"),
        ("export",),
        ("finetune", "evaluate", "inside"),
        ("report", "look"),
        ("plan", "doctor", "commands"),
        ("cli", "pretrain", "__main__"),
    ),
}
"""Folders and files of each package from the lowest floor up: one imports from its own and from lower ones."""


@functools.cache
def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import; write the module's whole name"
            module = node.module or ""
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    # A package's own file holds a sentence and no code, so that it is nobody's dependency.
    return {name for name in names if name in modules() and modules()[name].name != "__init__.py"}


@functools.cache
def graph() -> dict[str, set[str]]:
    return {name: imports_of(path) for name, path in modules().items()}


def floor_of(module: str) -> int | None:
    package, _, rest = module.partition(".")
    place = rest.split(".")[0]
    floors = FLOORS.get(package)
    if floors is None or not place:
        return None
    return next((number for number, names in enumerate(floors) if place in names), -1)


def test_no_import_goes_round() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


def test_neighbours_in_a_folder_do_not_import_each_other_in_a_circle() -> None:
    """Files and folders that lie side by side, at every depth."""
    for folder in {name.rpartition(".")[0] for name in modules()} - {""}:
        depth = len(folder.split(".")) + 1
        siblings: dict[str, set[str]] = {}
        for module, imported in graph().items():
            if module.startswith(f"{folder}."):
                own = ".".join(module.split(".")[:depth])
                others = {".".join(name.split(".")[:depth]) for name in imported if name.startswith(f"{folder}.")}
                siblings.setdefault(own, set()).update(others - {own})
        try:
            TopologicalSorter(siblings).prepare()
        except CycleError as error:
            pytest.fail(f"neighbours in {folder} import each other in a circle: {' -> '.join(error.args[1])}")


def test_every_folder_and_file_has_a_floor() -> None:
    assert [name for name in modules() if floor_of(name) == -1] == []


def test_no_import_goes_up() -> None:
    upwards = [
        f"{module} imports {name}"
        for module, imported in graph().items()
        for name in imported
        if module.split(".")[0] == name.split(".")[0]
        and (own := floor_of(module)) is not None
        and (other := floor_of(name)) is not None
        and other > own
    ]
    assert upwards == []


def test_the_data_pipeline_does_not_know_training() -> None:
    strangers = {
        f"{module} imports {name}"
        for module, imported in graph().items()
        for name in imported
        if module.startswith("data_pipeline") and not name.startswith("data_pipeline")
    }
    assert strangers == set()


def test_the_product_does_not_know_benchmarks() -> None:
    strangers = {
        f"{module} imports {name}"
        for module, imported in graph().items()
        for name in imported
        if not module.startswith("benchmarks") and name.startswith("benchmarks")
    }
    assert strangers == set()


def test_no_folder_has_more_modules_than_one_can_take_in() -> None:
    counts: dict[Path, int] = {}
    for path in modules().values():
        if path.name != "__init__.py":
            counts[path.parent] = counts.get(path.parent, 0) + 1
    assert {str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n > MOST_MODULES} == {}


def test_no_file_is_longer_than_one_concept() -> None:
    files = [*modules().values(), *(ROOT / "tests").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_every_folder_says_what_goes_in_and_what_comes_out() -> None:
    folders = {path.parent for path in modules().values()}
    silent = [str(folder.relative_to(ROOT)) for folder in folders if not docstring(folder / "__init__.py")]
    assert silent == []


def test_packages_hold_no_code_of_their_own() -> None:
    busy = [
        str(path.relative_to(ROOT))
        for path in modules().values()
        if path.name == "__init__.py" and len(ast.parse(path.read_text()).body) > 1
    ]
    assert busy == []


def docstring(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "") if path.is_file() else ""
