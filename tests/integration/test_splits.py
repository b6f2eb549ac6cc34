"""One global batch gives one gradient, however it is split (method.md, section 9, check 7)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.fixtures.runs import ranks, run
from tests.unit.train.conftest import SAMPLERS

pytestmark = pytest.mark.slow

SPLITS = ("2x1x16", "2x2x8")


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for each sampler and split, named ranks x micro-batches x rows, from DeepSpeed's ZeRO-2 itself."""
    folder = tmp_path_factory.mktemp("gradients")
    for number, sizes in ((1, ["32"]), (2, ["16", "8"])):
        result = run(ranks(number, folder, *sizes, module="tests.support.programs.gradients_of_ranks"), folder)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_ranks_and_micro_batches_do_not_change_the_gradient(name: str, split: str, gradients: Path) -> None:
    whole, parts = (torch.load(gradients / f"{name}-{how}.pt") for how in ("1x1x32", split))
    assert whole.keys() == parts.keys()
    assert any(key.startswith("sampler.") for key in whole) == (name not in ("electra", "temperature"))
    for key, gradient in whole.items():
        difference = float((parts[key] - gradient).norm())
        assert difference <= 1e-5 * float(gradient.norm()), key
    assert sum(float(gradient.norm()) > 1e-4 for gradient in whole.values()) > len(whole) / 2
