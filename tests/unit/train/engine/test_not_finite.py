"""What becomes of an update whose gradient is not finite, in fp32 and bf16."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.fixtures.runs import ranks, run
from tests.support.programs.poisoned_steps import POISONS

RANKS = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """By rank and DeepSpeed JSON: what became of steps, the last rank of which had something bad in its gradient."""
    folder = tmp_path_factory.mktemp("poisoned")
    result = run(ranks(RANKS, folder, module="tests.support.programs.poisoned_steps"), folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("scanned", ["", ", scanned"])
@pytest.mark.parametrize("file", ["zero2.json", "zero2_bf16.json"])
def test_a_gradient_that_is_not_finite_on_one_rank_changes_no_weight_on_any(
    file: str, scanned: str, found: list[dict[str, Any]]
) -> None:
    skipped, made = {"updated": False, "changed": False}, {"updated": True, "changed": True}
    for rank in found:
        assert rank[file + scanned]["steps"] == {name: [skipped, made] for name in POISONS}


@pytest.mark.slow
def test_gradients_are_scanned_only_if_deepspeed_does_not_look_at_their_norm(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert {name: own["scans"] for name, own in rank.items()} == {
            "zero2.json": 0,
            "zero2_bf16.json": 0,
            "zero2.json, scanned": 2 * len(POISONS),
            "zero2_bf16.json, scanned": 2 * len(POISONS),
        }
