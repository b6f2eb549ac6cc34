"""A run leaves as ordinary Hugging Face checkpoints, and can begin from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, ElectraForMaskedLM, ElectraForPreTraining

from electra_scale.cli import main
from electra_scale.model.layout import Layout
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.networks import load_module
from tests.support.fixtures.runs import plain, rows, run, write_recipe
from tests.support.instruments.logits import discriminator_logits

pytestmark = pytest.mark.slow

RecipeFile = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    path = write_recipe(folder, store, **{"checkpoint.keep": 9})
    result = run(plain("--config", path, "--run_dir", folder / "run"), folder)
    assert result.returncode == 0, result.stderr
    return folder / "run"


def test_an_export_gives_transformers_the_networks_that_were_trained(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "export"
    assert main(["export", str(trained), str(out)]) == 0
    assert "step 18" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(str(out / "discriminator"))
    encoded = tokenizer(["Return the number of items.", "Raise an error."], padding=True, return_tensors="pt")
    segment = torch.where(encoded["attention_mask"] == 1, 0, -1)
    layout = Layout.of(segment)
    folder = RunFolder(trained)
    tag = checkpoint.complete_tags(folder.checkpoints)[-1]
    ours = load_module(folder, recipe_of_run(folder.recipe), tag).electra.eval()
    theirs = ElectraForPreTraining.from_pretrained(str(out / "discriminator")).eval()
    generator = ElectraForMaskedLM.from_pretrained(str(out / "generator")).eval()
    with torch.no_grad():
        logits = discriminator_logits(ours, encoded["input_ids"], layout)
        hidden = ours.generator_hidden(encoded["input_ids"], layout)
        scores = ours.generator_head(hidden) @ ours.word_embeddings.T + ours.generator_head.bias
        real = segment >= 0
        assert torch.allclose(theirs(**encoded).logits[real], logits[real], atol=1e-5)
        assert torch.allclose(generator(**encoded).logits[real], scores[real], atol=1e-5)


def test_an_exported_checkpoint_can_be_tried_and_trained_on(
    trained: Path, recipe_file: RecipeFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "export"
    assert main(["export", str(trained), str(out)]) == 0
    assert main(["try", str(out), "--masked", "Return the [MASK].", "--wrong", "Return the banana error."]) == 0
    shown = capsys.readouterr().out
    assert "five best" in shown
    assert "replaced" in shown
    path = recipe_file("onwards", **{"model.init_from": str(out), "generator_warmup.steps": 0})
    result = run(plain("--config", path, "--run_dir", tmp_path / "onwards"), tmp_path)
    assert result.returncode == 0, result.stderr
    before = [row for row in rows(trained) if "eval/generator_cross_entropy" in row][-1]
    after = rows(tmp_path / "onwards")[0]
    scratch = rows(trained)[0]
    # It goes on near where the first run ended, far from where that one began.
    assert abs(after["gen/cross_entropy"] - before["eval/generator_cross_entropy"]) < abs(
        after["gen/cross_entropy"] - scratch["gen/cross_entropy"]
    )


def test_export_refuses_what_it_cannot_do(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("mine")
    assert main(["export", str(trained), str(tmp_path / "taken")]) == 2
    assert (tmp_path / "taken/file").read_text() == "mine"
    assert main(["export", str(trained), str(tmp_path / "out"), "--step", "7"]) == 2
    assert "step-00000016" in capsys.readouterr().err
    assert main(["export", str(trained), str(tmp_path / "out"), "--step", "4"]) == 2
    assert "before there was a discriminator" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 2
    assert "not a run folder" in capsys.readouterr().err
