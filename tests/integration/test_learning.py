"""In training the sampler learns what is hard, and draws fewer originals (method.md, section 9, check 8)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from tests.support.fixtures.runs import RECIPE, plain, rows, run

pytestmark = pytest.mark.slow

LAST = 60


@pytest.fixture(scope="module")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, float]]:
    """Means over the last steps of a short run, from the same start and with the same data for every objective."""
    known: dict[str, dict[str, float]] = {}

    def train(sampler: str, gamma: float) -> dict[str, float]:
        name = f"{sampler}-{gamma}"
        if name not in known:
            folder = tmp_path_factory.mktemp("learning")
            recipe = json.loads(json.dumps(RECIPE))
            recipe["data"]["store"] = str(store)
            recipe["data"]["mask_share"] = 0.3
            recipe["model"] |= {"init": "fan_in", "init_std": 0.05, "cooccurrence_embeddings": True}
            recipe["model"] |= {"unigram_bias": True, "position_init": "sinusoidal"}
            recipe["corruption"] |= {"sampler": sampler, "focal_gamma": gamma}
            recipe["batch"] = {"global_batch": 32, "most_per_device": 32}
            recipe["optimizer"] = {"learning_rate": 3e-3, "betas": [0.9, 0.98]}
            recipe["schedule"] = {"steps": 240, "warmup_steps": 10}
            recipe["generator_warmup"] = {"steps": 250, "warmup_steps": 20, "learning_rate": 5e-3, "mask_share": 0.4}
            recipe["logging"]["evaluate_every"] = recipe["checkpoint"]["every"] = 1000
            (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
            result = run(plain("--config", folder / "recipe.yaml", "--run_dir", folder / "run"), folder)
            assert result.returncode == 0, result.stderr
            last = rows(folder / "run")[-LAST:]
            known[name] = {key: fmean(row[key] for row in last) for key in last[0] if key.startswith("sampling/")}
        return known[name]

    return train


# Two scalars know the label only; with few originals among the draws that is little.
@pytest.mark.parametrize(
    ("sampler", "least", "most"), [("hp_loss", 0.3, 0.8), ("hp_dist", 0.1, 0.9), ("two_scalars", 0.05, 0.95)]
)
def test_predicted_hardness_follows_the_loss_and_originals_are_drawn_less(
    sampler: str, least: float, most: float, trained: Callable[..., dict[str, float]]
) -> None:
    plain_electra, hard = trained("electra", 0.0), trained(sampler, 0.0)
    assert plain_electra["sampling/hardness_rank_correlation"] == 0
    assert hard["sampling/hardness_rank_correlation"] > least
    assert hard["sampling/identical_rate"] < most * plain_electra["sampling/identical_rate"]


def test_a_focal_loss_draws_fewer_originals(trained: Callable[..., dict[str, float]]) -> None:
    focal = trained("electra", 4.0)["sampling/identical_rate"]
    assert focal < 0.9 * trained("electra", 0.0)["sampling/identical_rate"]
