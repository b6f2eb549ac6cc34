"""A run without a generator: trained on ranks, stopped and resumed, evaluated, exported and tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoTokenizer, ElectraForSequenceClassification

from electra_scale.cli import main
from electra_scale.inside.opening import open_run
from tests.support.fixtures.runs import ranks, rows, run

RecipeFile = Callable[..., Path]

pytestmark = pytest.mark.slow


def test_a_run_without_a_generator_resumes_bit_for_bit_and_leaves_a_discriminator(
    recipe_file: RecipeFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe_file(**{"generator_warmup.steps": 0, "logging.probe_every": 0, "schedule.steps": 8})
    arguments = ["--config", path, "--corruption", "random", "--checkpoint.every", 4, "--logging.evaluate_every", 4]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    result = run(ranks(2, *arguments, "--run_dir", straight), tmp_path)
    assert "uniform replacement" in result.stdout, result.stderr
    assert "held-out at step 4 (joint): discriminator" in result.stdout
    run(ranks(2, *arguments, "--run_dir", stopped), tmp_path)
    (stopped / "checkpoints/step-00000008/run_state.json").unlink()
    result = run(ranks(2, *arguments, "--run_dir", stopped, "--resume", "auto"), tmp_path)
    assert "resuming from step 4" in result.stdout, result.stderr
    assert rows(stopped) == rows(straight)
    assert [row["step"] for row in rows(straight)] == list(range(1, 9))
    shown = set(EventAccumulator(str(straight / "tensorboard")).Reload().Tags()["scalars"])
    assert {"loss/discriminator", "loss/total", "disc_loss_variance/masked", "disc/auc", "eval/auc"} <= shown
    assert not any(tag.startswith(("gen/", "loss/generator", "loss/sampler", "eval/generator")) for tag in shown)

    assert main(["export", str(straight), str(tmp_path / "encoder")]) == 0
    assert [folder.name for folder in (tmp_path / "encoder").iterdir()] == ["discriminator"]
    assert f"exported step 8: {tmp_path}/encoder/discriminator\n" in capsys.readouterr().out
    discriminator = tmp_path / "encoder/discriminator"
    assert ElectraForSequenceClassification.from_pretrained(discriminator, num_labels=2)
    assert AutoTokenizer.from_pretrained(discriminator)
    assert main(["try", str(tmp_path / "encoder"), "--wrong", "the banana of the people"]) == 0
    assert "holds no generator" in capsys.readouterr().out
    assert main(["probe", str(straight)]) == 2
    assert "has no generator" in capsys.readouterr().err
    looked = open_run(straight).look("Return the value.", [2], key=1)
    assert looked.tokens[2].drawn is not None
    assert looked.positions[0].drawn.p is None
