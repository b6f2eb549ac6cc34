"""A run leaves as ordinary Hugging Face checkpoints, and can begin from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, ElectraForMaskedLM, ElectraForPreTraining

from electra_scale.cli import main
from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.networks import load_module
from tests.support.fixtures.runs import plain, rows, run, write_recipe
from tests.support.fixtures.small_encoders import tasks
from tests.support.instruments.logits import discriminator_logits

__all__ = ["tasks"]

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


def test_a_checkpoint_of_the_warmup_leaves_as_its_generator_which_is_then_the_encoder(
    trained: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "export"
    assert main(["export", str(trained), str(out), "--step", "4"]) == 0
    assert "step 4 is of the generator's warm-up, in which no discriminator is trained" in capsys.readouterr().out
    assert [path.name for path in out.iterdir()] == ["generator"]
    card = (out / "generator" / "README.md").read_text()
    assert "this is the network to fine-tune" in card
    assert "| steps | 4: 4 of the generator alone, 0 of both networks |" in card
    assert "replacements" not in card.partition("The recipe")[0]
    folder = RunFolder(trained)
    electra = load_module(folder, recipe_of_run(folder.recipe), "step-00000004", warmup=True).electra.eval()
    ids = torch.tensor([[2, 20, 30, 4, 3]])
    with torch.no_grad():
        hidden = electra.generator_hidden(ids, Layout.of(torch.zeros_like(ids)))
        scores = electra.generator_head(hidden) @ electra.word_embeddings.T + electra.generator_head.bias
        theirs = ElectraForMaskedLM.from_pretrained(str(out / "generator")).eval()(ids).logits
    assert torch.allclose(theirs, scores, atol=1e-5)

    shared = ["--model", str(trained), "--step", "4"]
    task = ["--task", "cola", "--data", str(tasks), "--epochs", "1", "--out", str(tmp_path / "cola")]
    assert main(["finetune", *shared, *task]) == 0
    assert "so the encoder is the generator's" in capsys.readouterr().err
    assert json.loads((tmp_path / "cola/best/config.json").read_text())["hidden_size"] == 16
    text = tmp_path / "text.txt"
    text.write_text("Return the number of items in the list, or raise an error if there are none.")
    masked = ["--masked-tokens", str(text), "--passages", "2", "--out", str(tmp_path)]
    assert main(["evaluate", *shared, *masked]) == 0
    assert main(["evaluate", *shared, "--pairs"]) == 2
    assert "evaluate its generator, or name a later one with --step, such as 18" in capsys.readouterr().err


def test_export_refuses_what_it_cannot_do(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("mine")
    assert main(["export", str(trained), str(tmp_path / "taken")]) == 2
    assert (tmp_path / "taken/file").read_text() == "mine"
    assert main(["export", str(trained), str(tmp_path / "out"), "--step", "7"]) == 2
    assert "step-00000016" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 2
    assert "not a run folder" in capsys.readouterr().err
