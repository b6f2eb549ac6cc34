"""Commands in README and docs run as written: every ```sh block of a page, one after another, in a fresh folder.

The project's commands, its training and programs on Python's stdin are run by a process that has imported their
packages (tests/support/fixtures/warm_commands.py). Blocks that need what no test machine has (many GPUs, a bucket,
minutes of training) are fenced as ```console.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fixtures.runs import ROOT
from tests.support.fixtures.warm_commands import warm_commands

__all__ = ["warm_commands"]

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "ds_configs/README.md",
    ROOT / "benchmarks/README.md",
]
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#:]*)(?:#([^):]+))?\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_SECTION = re.compile(r"method\.md,? (?:sections? )?([^)\n]*)")
_METHOD = ROOT / "docs/method.md"


def blocks(page: Path) -> list[str]:
    return _BLOCK.findall(page.read_text())


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


def test_there_are_commands_to_check() -> None:
    assert any(blocks(page) for page in PAGES)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_commands_of_a_page_run_as_written(page: Path, warm_commands: Path, tmp_path: Path) -> None:
    script = "set -euo pipefail\n" + "\n".join(blocks(page))
    path = os.pathsep.join([str(warm_commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    for name in ("recipes", "ds_configs", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    result = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "code", "shown"),
    [
        ("electra-scale status nowhere", 2, "electra-scale: error: "),
        ("echo 'import os, sys; print(os.getcwd()); sys.exit(7)' | python -", 7, "{folder}"),
        ("echo 'import time; print(1, flush=True); time.sleep(60)' | python - & sleep 1; kill $!; wait $!", 143, "1"),
    ],
)
def test_a_command_that_another_process_runs_gives_what_its_own_would(
    script: str, code: int, shown: str, warm_commands: Path, tmp_path: Path
) -> None:
    variables = {**os.environ, "PATH": f"{warm_commands}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert shown.format(folder=tmp_path) in result.stdout + result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor}"


def test_reading_order_names_every_page() -> None:
    text = (ROOT / "docs/README.md").read_text()
    pages = [page for page in PAGES if page != ROOT / "docs/README.md"]
    missing = [page for page in pages if f"({os.path.relpath(page, ROOT / 'docs')})" not in text]
    assert missing == []


def test_sections_of_the_method_that_code_names_exist() -> None:
    sections = set(re.findall(r"^#+ (\d+a?)\. ", _METHOD.read_text(), re.MULTILINE))
    checks = set(re.findall(r"^\| (\d+)\. ", _METHOD.read_text(), re.MULTILINE))
    named = [
        (path, reference)
        for folder in ("electra_scale", "data_pipeline", "benchmarks", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(__file__)
        for reference in _SECTION.findall(path.read_text())
    ]
    assert len(named) > 5
    for path, reference in named:
        before, _, after = reference.partition("check")
        assert set(re.findall(r"\d+a?", before)) <= sections, f"{path}: {reference}"
        assert set(re.findall(r"\d+", after.partition("section")[0])) <= checks, f"{path}: {reference}"


def test_every_file_of_ds_configs_is_described() -> None:
    text = (ROOT / "ds_configs/README.md").read_text()
    for file in (ROOT / "ds_configs").glob("*.json"):
        assert f"`{file.name}`" in text
