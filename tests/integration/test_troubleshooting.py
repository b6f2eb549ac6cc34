"""Each line that docs/troubleshooting.md explains is one that the program prints."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from tests.support.fixtures.runs import ROOT

PAGE = ROOT / "docs/troubleshooting.md"
_VARIABLE = re.compile(r"\.\.\.|\b(?:N|R|HOST)\b")


def quoted() -> list[str]:
    """The quotations in the first column of the page's tables."""
    rows = [line.split(" | ")[0] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [text for row in rows for text in re.findall(r"`([^`]+)`", row)]


@functools.cache
def printed() -> str:
    """The constant parts of all strings of the two packages, and the text of the batch scripts."""
    parts = [path.read_text() for path in ROOT.glob("slurm/*.sh")]
    for package in ("data_pipeline", "electra_scale"):
        for path in (ROOT / package).rglob("*.py"):
            nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            parts += [node.value for node in nodes if isinstance(node.value, str)]
    return "\n".join(parts)


def test_the_page_quotes_lines() -> None:
    assert len(quoted()) > 20


@pytest.mark.parametrize("text", quoted())
def test_a_quoted_line_is_printed(text: str) -> None:
    for part in _VARIABLE.split(text):
        assert part.strip() in printed(), f"no code prints {part!r}"
