"""Masked language modelling alone: trained, killed, resumed, exported, and the start of a run that detects."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import ElectraForMaskedLM, ElectraForPreTraining

from electra_scale.cli import main
from electra_scale.train.checkpoint import state as checkpoint
from tests.support.fixtures.runs import plain, rows, run, write_recipe

pytestmark = pytest.mark.slow

CHANGES = {
    "task.kind": "mlm",
    "generator_warmup.steps": 0,
    "schedule": {"steps": 8, "warmup_steps": 2},
    "checkpoint": {"every": 4, "keep": 9},
    "logging.evaluate_every": 4,
}


@pytest.fixture(scope="module")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    result = run(plain("--config", write_recipe(folder, store, **CHANGES), "--run_dir", folder / "run"), folder)
    assert result.returncode == 0, result.stderr
    assert "masked prediction alone" in result.stdout
    assert "model.generator, optimizer.generator_rate, the sampler" in result.stdout
    return folder / "run"


def test_the_rows_are_those_of_a_masked_language_model(trained: Path) -> None:
    found = rows(trained)
    assert [row["phase"] for row in found] == ["mlm"] * 8
    assert found[-1]["optim/lr"] == pytest.approx(1e-3 / 8)
    assert "eval/generator_cross_entropy" in found[-1]
    assert not [name for name in found[-1] if name.startswith(("disc", "eval/auc", "eval/pairs", "sampling"))]


def test_a_resumed_run_repeats_the_straight_one(trained: Path, store: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    for tag in checkpoint.complete_tags(tmp_path / "run/checkpoints")[1:]:
        (tmp_path / "run/checkpoints" / tag / "run_state.json").unlink()
    path = write_recipe(tmp_path, store, **CHANGES)
    result = run(plain("--config", path, "--run_dir", tmp_path / "run", "--resume", "auto"), tmp_path)
    assert "resuming from step 4" in result.stdout, result.stderr
    assert rows(tmp_path / "run") == rows(trained)


def test_it_is_exported_and_both_networks_of_another_run_start_from_it(
    trained: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained), str(tmp_path / "out")]) == 0
    assert "masked language model (task.kind mlm), which has no discriminator" in capsys.readouterr().out
    card = (tmp_path / "out/generator/README.md").read_text()
    assert "A masked language model (Devlin et al. 2019)" in card
    theirs = ElectraForMaskedLM.from_pretrained(tmp_path / "out/generator").eval()
    assert theirs.config.hidden_size == 32
    assert main(["evaluate", "--model", str(trained), "--pairs"]) == 2
    assert "has no discriminator; evaluate its generator" in capsys.readouterr().err
    changes = {
        "model.generator": {"layers": 2, "hidden": 32, "ffn": 64, "heads": 2},
        "model.init_from": str(trained),
        "generator_warmup.steps": 0,
        "schedule": {"steps": 1, "warmup_steps": 1},
        "optimizer.learning_rate": 1e-9,
        "logging": {"every": 1, "evaluate_every": 9, "pairs": 0},
    }
    result = run(plain("--config", write_recipe(tmp_path, store, **changes), "--run_dir", tmp_path / "run"), tmp_path)
    assert result.returncode == 0, result.stderr
    assert "the generator of a run" in result.stdout
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "both")]) == 0
    ids = torch.tensor([[2, 20, 30, 4, 3]])
    generator = ElectraForMaskedLM.from_pretrained(tmp_path / "both/generator").eval()
    discriminator = ElectraForPreTraining.from_pretrained(tmp_path / "both/discriminator").eval()
    with torch.no_grad():
        assert torch.allclose(generator(ids).logits, theirs(ids).logits, atol=1e-5)
        assert torch.allclose(discriminator.electra(ids)[0], theirs.electra(ids)[0], atol=1e-5)


def test_the_plan_of_masked_prediction_has_one_network(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe_file: Callable[..., Path]
) -> None:
    assert main(["plan", "--config", str(recipe_file("mlm", **CHANGES))]) == 0
    shown = capsys.readouterr().out
    [parameters] = [line for line in shown.splitlines() if line.split()[:2] == ["discriminator", "0"]][:1]
    assert parameters
