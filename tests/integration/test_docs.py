"""Commands in README and docs run as written: every ```sh block of a page, one after another, in a fresh folder.

Blocks that need what no test machine has (many GPUs, a bucket, minutes of training) are fenced as ```console.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fixtures.runs import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "ds_configs/README.md"]
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#:]+)\)")


def blocks(page: Path) -> list[str]:
    return _BLOCK.findall(page.read_text())


def test_there_are_commands_to_check() -> None:
    assert any(blocks(page) for page in PAGES)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_commands_of_a_page_run_as_written(page: Path, tmp_path: Path) -> None:
    script = "set -euo pipefail\n" + "\n".join(blocks(page))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    for name in ("recipes", "ds_configs", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    result = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_file_of_ds_configs_is_described() -> None:
    text = (ROOT / "ds_configs/README.md").read_text()
    for file in (ROOT / "ds_configs").glob("*.json"):
        assert f"`{file.name}`" in text
