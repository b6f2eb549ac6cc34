"""A run of the modern encoder resumes after a kill, on the same ranks and on others, and what it leaves can be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from electra_scale.cli import main
from electra_scale.inside.opening import open_named
from electra_scale.train.checkpoint import state as checkpoint
from tests.support.fixtures.runs import end, plain, ranks, rows, run, start, write_recipe
from tests.support.waiting import wait_for_rows

pytestmark = pytest.mark.slow

STEPS = 10
CHANGES = {
    "architecture": {"kind": "modern", "window": 16},
    "corruption.look_ahead": True,
    "generator_warmup.steps": 4,
    "schedule.steps": STEPS - 4,
    "checkpoint.every": 3,
    "checkpoint.keep": 9,
    "logging.evaluate_every": STEPS,
}
SLOWLY = ("--logging.evaluate_every", "1", "--logging.evaluate_samples", "256")
"""For a start that is killed: evaluations change no weight, and leave time to kill before the end."""


@pytest.fixture(scope="module")
def recipe(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both phases, packed rows that are longer than half the window, the learning sampler with draws made ahead."""
    return write_recipe(tmp_path_factory.mktemp("recipe"), store, **CHANGES)


@pytest.fixture(scope="module")
def straight(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks without a stop."""
    folder = tmp_path_factory.mktemp("straight")
    result = run(ranks(2, "--config", recipe, "--run_dir", folder / "run"), folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "run"


def test_a_killed_run_resumes_with_the_same_losses_bit_for_bit(straight: Path, recipe: Path, tmp_path: Path) -> None:
    arguments = ("--config", recipe, "--run_dir", tmp_path / "run", "--resume", "auto")
    process = start(ranks(2, *arguments, *SLOWLY), tmp_path)
    try:
        wait_for_rows(tmp_path / "run", 7, process)
    finally:
        end(process)
    state = checkpoint.newest(tmp_path / "run/checkpoints")
    assert state is not None
    assert 0 < state.step < STEPS, "the kill came too late to test anything"
    result = run(ranks(2, *arguments), tmp_path)
    assert f"resuming from step {state.step}" in result.stdout, result.stderr
    assert losses(tmp_path / "run") == losses(straight)


def test_another_number_of_ranks_goes_on_within_rounding(straight: Path, recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path / "run")
    for tag in checkpoint.complete_tags(tmp_path / "run/checkpoints"):
        if checkpoint.step_of(tag) > 6:
            shutil.rmtree(tmp_path / "run/checkpoints" / tag)
    result = run(plain("--config", recipe, "--run_dir", tmp_path / "run", "--resume", "auto"), tmp_path)
    assert "was written by 2 ranks and is converted for 1" in result.stdout, result.stderr
    found, wanted = losses(tmp_path / "run"), losses(straight)
    assert found[:6] == wanted[:6]
    assert len(found) == STEPS
    for one, other in zip(found[6:], wanted[6:], strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def losses(folder: Path) -> list[dict[str, float]]:
    return [{name: row[name] for name in row if name.startswith("loss/")} for row in rows(folder)]


def test_what_it_leaves_is_exported_evaluated_looked_into_reported_and_trained_on(
    straight: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The generator is narrower than the table, so that its export has a folded one."""
    out, text = tmp_path / "export", "Return the number of items in the list."
    assert main(["export", str(straight), str(out)]) == 0
    assert main(["try", str(out), "--masked", "Return the [MASK].", "--wrong", text]) == 0
    assert "ModernBertForTokenClassification" in (out / "discriminator/README.md").read_text()

    ours, exported = open_named(str(straight)), open_named(str(out))
    looked = ours.look(text, [2], key=1)
    ids = torch.tensor([[token.id for token in looked.tokens]])
    tokenizer = AutoTokenizer.from_pretrained(str(out / "discriminator"))
    assert tokenizer(text)["input_ids"] == ids[0].tolist()
    theirs = AutoModelForTokenClassification.from_pretrained(out / "discriminator").eval()
    whole = ours.look(text)
    with torch.no_grad():
        scores = theirs(**tokenizer(text, return_tensors="pt")).logits[0, :, 0].sigmoid()
    assert [token.score for token in whole.tokens] == pytest.approx(scores.tolist(), abs=1e-5)
    ours_p = {one.token: one.p for one in looked.positions[0].candidates}
    theirs_p = {one.token: one.p for one in exported.look(text, [2], key=1).positions[0].candidates}
    common = ours_p.keys() & theirs_p.keys()
    assert len(common) > 1
    assert all(ours_p[token] == pytest.approx(theirs_p[token], rel=1e-4) for token in common)

    file = tmp_path / "text.txt"
    file.write_text(f"{text} " * 20)
    shared = ["--passages", "2", "--out", str(tmp_path)]
    assert main(["evaluate", "--model", str(straight), "--masked-tokens", str(file), *shared]) == 0
    replaced = ["--replaced-tokens", str(file), "--generator", str(out)]
    assert main(["evaluate", "--model", str(out), *replaced, *shared]) == 0
    assert main(["probe", str(straight), "--samples", "2", "--draws", "2"]) == 0
    assert main(["report", str(straight), "--out", str(tmp_path / "report.html")]) == 0

    onwards = ["--model.init_from", str(out), "--generator_warmup.steps", "0", "--schedule.steps", "1"]
    result = run(plain("--config", recipe, "--run_dir", tmp_path / "onwards", *onwards), tmp_path)
    assert result.returncode == 0, result.stderr
    assert "no projection" not in result.stdout + result.stderr
    first, last = rows(tmp_path / "onwards")[0], json.loads(json.dumps(rows(straight)[-1]))
    scratch = rows(straight)[0]["loss/generator"]
    assert abs(first["loss/generator"] - last["loss/generator"]) < abs(first["loss/generator"] - scratch)
