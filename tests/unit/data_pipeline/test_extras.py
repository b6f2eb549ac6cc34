"""What a user reads who lacks an optional package."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from data_pipeline.extras import needs_extra

ROOT = Path(__file__).parents[3]


def test_a_missing_package_is_one_line_with_the_command() -> None:
    with pytest.raises(UserError) as refusal, needs_extra("near", "nothing", "clean.x", "leave it out"):
        import nothing_of_this_name  # noqa: F401
    assert str(refusal.value) == (
        "clean.x needs nothing, which is not installed: pip install 'electra-scale[near]', or leave it out"
    )


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="as it was"), needs_extra("near", "nothing", "clean.x"):
        raise ValueError("as it was")


def test_every_extra_that_is_named_exists() -> None:
    extras = importlib.metadata.metadata("electra-scale").get_all("Provides-Extra") or []
    named = {
        line.split('needs_extra("')[1].split('"')[0]
        for path in (ROOT / "data_pipeline").rglob("*.py")
        for line in path.read_text().splitlines()
        if 'needs_extra("' in line
    }
    assert named
    assert named <= set(extras)
