"""The card of an exported network says what the run folder knows, and what it does not; the hub's library reads it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from data_pipeline.errors import UserError
from electra_scale.cli import main
from electra_scale.export.average import average_run
from electra_scale.export.card import write_card
from electra_scale.export.fine_tuned_card import FineTunedCard
from electra_scale.export.run import export_run
from electra_scale.export.run_facts import facts_of_run
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.train.checkpoint.run_folder import RunFolder
from tests.support.fixtures.runs import ROOT, plain, run, write_recipe

pytestmark = pytest.mark.slow

PAIRS: dict[str, Any] = {
    "version": 1,
    "model": "runs/of-somebody",
    "step": 4,
    "random": False,
    "probe": "pairs",
    "by": "discriminator",
    "settings": {},
    "scores": [{"name": "pairs_swapped", "value": 0.906, "error": 0.013, "count": 541, "chance": 0.5}],
}
RESULT: dict[str, Any] = {
    "version": 1,
    "model": "runs/of-somebody",
    "step": 4,
    "random": False,
    "task": "cola",
    "kind": "classification",
    "metric": "matthews",
    "split": "validation",
    "settings": {"epochs": 3},
    "seeds": [{"seed": 0, "scores": {"matthews": 0.1}, "folder": "seed-0"}] * 5,
    "mean": {"matthews": 0.123456789, "accuracy": 0.7},
    "deviation": {"matthews": 0.02, "accuracy": None},
    "best": {"seed": 0, "folder": "best"},
}


@pytest.fixture
def a_run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def put(path: Path, content: dict[str, Any], **changes: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, **changes}))


def text_of(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_a_card_has_the_facts_of_its_run_and_is_the_same_each_time(a_run: Path, store: Path, tmp_path: Path) -> None:
    put(a_run / "evaluation/pairs-4.json", PAIRS)
    put(
        a_run / "evaluation/random/pairs-4.json", PAIRS, random=True, scores=[{"name": "pairs_swapped", "value": 0.486}]
    )
    put(a_run / "evaluation/pairs-2.json", PAIRS, step=2)
    put(a_run / "evaluation/pairs-generator-4.json", PAIRS, by="generator")
    put(a_run / "finetune/cola/result.json", RESULT)
    put(a_run / "finetune/random/cola/result.json", RESULT, random=True, mean={"matthews": 0.01})
    (a_run / "evaluation/broken.json").write_text("{")
    assert main(["export", str(a_run), str(tmp_path / "out"), "--license", "apache-2.0"]) == 0
    card = ModelCard.load(tmp_path / "out/discriminator/README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "feature-extraction"
    found = {(each.dataset_type, each.metric_type): each.metric_value for each in card.data.eval_results or []}
    rows = [json.loads(line) for line in (a_run / "metrics.jsonl").read_text().splitlines()]
    auc = next(row["eval/auc"] for row in reversed(rows) if "eval/auc" in row)
    assert found == {
        ("held-out", "auc"): pytest.approx(auc, abs=1e-6),
        ("held-out", "discriminator_loss"): pytest.approx(rows[-1]["eval/discriminator_loss"], abs=1e-6),
        ("held-out", "pairs_swapped"): pytest.approx(rows[-1]["eval/pairs_swapped"], abs=1e-6),
        ("held-out", "pairs_replaced"): pytest.approx(rows[-1]["eval/pairs_replaced"], abs=1e-6),
        ("pairs", "pairs_swapped"): 0.906,
        ("cola", "matthews_correlation"): 0.123457,
        ("cola", "accuracy"): 0.7,
    }
    text = text_of(tmp_path / "out/discriminator")
    data = json.loads((a_run / "data.json").read_text())
    documents, tokens = data["contents"]["sources"]["main"]["train"]
    device = json.loads((a_run / "hardware.json").read_text())["starts"][0]["device"]
    for fact in (
        f"| main | {documents:,} | {tokens:,} |",
        data["manifest"],
        "`ElectraForSequenceClassification",
        "| steps | 4 |",
        "| positions seen | 1,024 |",
        f"{device}; 1 rank on 1 host",
        "sampler: hp_loss",
        "| pairs | pairs_swapped | 0.906 ± 0.013 | 0.486 | 0.500 | 541 |",
        "| cola | matthews, validation | 0.123 ± 0.020 | 0.010 | 5 |",
        "positions from 32 on were never trained",
        "1 result of other steps than 4 left out, such as evaluation/pairs-2.json.",
        "Left out: evaluation/broken.json cannot be read",
    ):
        assert fact in text, fact
    for place in (a_run, store, tmp_path):
        assert str(place) not in text
    generator = ModelCard.load(tmp_path / "out/generator/README.md")
    assert generator.data.pipeline_tag == "fill-mask"
    assert {each.dataset_type for each in generator.data.eval_results or []} == {"held-out", "pairs-generator"}
    export_run(a_run, tmp_path / "again", licence="apache-2.0")
    for network in ("discriminator", "generator"):
        assert text_of(tmp_path / "again" / network) == text_of(tmp_path / "out" / network)


def test_a_run_that_lacks_everything_but_its_checkpoint_is_exported_and_its_card_says_so(
    a_run: Path, tmp_path: Path
) -> None:
    for name in ("metrics.jsonl", "versions.json", "data.json", "hardware.json"):
        (a_run / name).unlink()
    recipe = (a_run / "recipe.yaml").read_text()
    (a_run / "recipe.yaml").write_text(re.sub("store: .*", "store: s3://nowhere/store", recipe))
    export_run(a_run, tmp_path / "out")
    text = text_of(tmp_path / "out/discriminator")
    for sentence in (
        "Not known: the fingerprint of the data, since the run folder has no data.json.",
        "Not known: losses and held-out figures, since the run folder has no rows up to step 4.",
        "Not known: the versions of packages, since the run folder has no versions.json.",
        "Not known: the hardware, since the run folder has no hardware.json.",
        "Not known: the sources and the language of the text, since neither the run folder nor its store says.",
        "No licence was given",
    ):
        assert sentence in text, sentence
    card = ModelCard.load(tmp_path / "out/discriminator/README.md")
    assert card.data.license is None
    assert not card.data.eval_results


def test_a_run_of_an_earlier_release_has_its_sources_from_a_store_on_this_disk(a_run: Path, tmp_path: Path) -> None:
    content = json.loads((a_run / "data.json").read_text())
    expected = content.pop("contents")
    (a_run / "data.json").write_text(json.dumps(content))
    folder = RunFolder(a_run)
    assert facts_of_run(folder, recipe_of_run(folder.recipe), [4]).text == expected
    (a_run / "data.json").write_text(json.dumps({**content, "manifest": "another"}))
    assert facts_of_run(folder, recipe_of_run(folder.recipe), [4]).text is None


def test_a_licence_that_is_no_identifier_is_refused(a_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--license 'my own: terms' is no identifier of a licence"):
        export_run(a_run, tmp_path / "out", licence="my own: terms")
    assert not (tmp_path / "out").exists()


def test_exported_and_fine_tuned_models_open_without_this_program_and_give_the_same_logits(
    a_run: Path, tmp_path: Path, logits_of_run: Callable[[Path, list[list[int]]], dict[str, Any]]
) -> None:
    """A process that finds neither this program nor what it needs besides transformers and torch computes the logits,
    and runs the cards' own snippets."""
    import torch
    from transformers import AutoTokenizer, ElectraForSequenceClassification

    export_run(a_run, tmp_path / "out", licence="mit")
    base = tmp_path / "out/discriminator"
    with torch.random.fork_rng():
        tuned = ElectraForSequenceClassification.from_pretrained(base, num_labels=2).eval()
    tuned.save_pretrained(tmp_path / "out/tuned")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "out/tuned")
    write_card(tmp_path / "out/tuned", FineTunedCard(tmp_path / "out/tuned", str(a_run), base, RESULT, seed=0))
    ids = [[2, 17, 250, 90, 411, 3], [2, 99, 5, 8, 700, 3]]
    (tmp_path / "out/ids.json").write_text(json.dumps(ids))
    program = ROOT / "tests/support/programs/open_models.py"
    command = [sys.executable, "-P", str(program), "--hide", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for said in (
        "discriminator: ElectraForPreTraining, model_max_length 64",
        "generator: ElectraForMaskedLM, model_max_length 64",
        "tuned: ElectraForSequenceClassification, model_max_length 64",
        "[SEP]           0.",
        "[{'label': 'LABEL_",
    ):
        assert said in done.stdout
    ours, theirs = logits_of_run(a_run, ids), torch.load(tmp_path / "out/logits.pt")
    ours["tuned"] = tuned(input_ids=torch.tensor(ids)).logits.detach()
    assert ours.keys() == theirs.keys()
    for name, logits in ours.items():
        assert torch.allclose(theirs[name], logits, atol=1e-5), name


def test_the_card_of_a_fine_tuned_model_has_its_scores_and_what_its_base_says(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "tuned"
    for each in (base, folder):
        each.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n\n# base\n")
    labels = {"id2label": {"0": "wrong", "1": "right"}, "architectures": ["ElectraForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(labels))
    seeds = [{"seed": seed, "scores": {"matthews": seed / 10, "accuracy": 0.7}, "folder": ""} for seed in (0, 1)]
    result = {**RESULT, "seeds": seeds, "model": str(base)}
    notes = ["3 of 90 texts of train are cut at 128 tokens, such as 'The ship'"]
    facts = FineTunedCard(folder, str(base), base, result, seed=1, pairs=True, notes=notes)
    write_card(folder, facts)
    card, text = ModelCard.load(folder / "README.md"), text_of(folder)
    assert (card.data.license, card.data.language, card.data.pipeline_tag) == ("mit", "en", "text-classification")
    assert card.data.base_model is None
    assert str(tmp_path) not in text
    found = {each.metric_type: (each.metric_value, each.dataset_split) for each in card.data.eval_results or []}
    assert found == {"matthews_correlation": (0.1, "validation"), "accuracy": (0.7, "validation")}
    for fact in (
        "base, step 4, fine-tuned on `cola` (seed 1)",
        "`wrong`, `right`",
        "| matthews | 0.100 | 0.123 ± 0.020 |",
        "best of 2 seeds",
        "- 3 of 90 texts of train are cut at 128 tokens, such as 'The ship'.",
        '"text_pair"',
    ):
        assert fact in text, fact
    answers = {
        **result,
        "kind": "question-answering",
        "mean": {"f1": 0.8},
        "deviation": {},
        "settings": {"length": 384},
    }
    write_card(folder, FineTunedCard(folder, "owner/model", base, answers, seed=0, licence="apache-2.0"))
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "owner/model")
    assert card.data.pipeline_tag == "question-answering"


@pytest.fixture
def logits_of_run() -> Callable[[Path, list[list[int]]], dict[str, Any]]:
    import torch

    from electra_scale.model.attention.layout import Layout
    from electra_scale.train.networks import load_module
    from tests.support.instruments.logits import discriminator_logits

    def compute(run: Path, ids: list[list[int]]) -> dict[str, Any]:
        folder = RunFolder(run)
        electra = load_module(folder, recipe_of_run(folder.recipe), "step-00000004", networks_only=True).electra.eval()
        tokens = torch.tensor(ids)
        layout = Layout.of(torch.zeros_like(tokens))
        with torch.no_grad():
            assert electra.generator_head is not None
            hidden = electra.generator_head(electra.generator_hidden(tokens, layout))
            return {
                "discriminator": discriminator_logits(electra, tokens, layout),
                "generator": hidden @ electra.word_embeddings.T + electra.generator_head.bias,
            }

    return compute


def test_an_average_is_the_mean_of_the_weights_and_its_card_names_the_steps(
    a_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    for step in (2, 4):
        export_run(a_run, tmp_path / str(step), step)
    assert main(["average", str(a_run), "--last", "2", "--license", "mit"]) == 0
    out = a_run / "average/step-00000004-last-2"
    assert f"averaged steps 2, 4: {out}/discriminator, {out}/generator" in capsys.readouterr().out
    assert ModelCard.load(out / "generator/README.md").data.license == "mit"
    for network in ("discriminator", "generator"):
        mean = load_file(out / network / "model.safetensors")
        old, new = (load_file(tmp_path / str(step) / network / "model.safetensors") for step in (2, 4))
        assert mean.keys() == old.keys()
        for name, value in mean.items():
            assert (value == (old[name] + new[name]) / 2).all(), name
        assert any((mean[name] != new[name]).any() for name in mean)
    text = text_of(out / "discriminator")
    assert "the average of the weights of 2 checkpoints, those of steps 2, 4" in text
    assert "the average itself was not evaluated" in text
    assert not ModelCard.load(out / "discriminator/README.md").data.eval_results


def test_an_average_of_a_warmup_is_that_of_its_generator(store: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    changes = {"generator_warmup.steps": 2, "schedule.steps": 0, "checkpoint.every": 1, "logging.probe_every": 0}
    path = write_recipe(tmp_path, store, **changes)
    result = run(plain("--config", path, "--run_dir", tmp_path / "run"), tmp_path)
    assert result.returncode == 0, result.stderr
    out, steps, networks = average_run(tmp_path / "run", 2)
    assert (steps, networks, [part.name for part in out.iterdir()]) == ([1, 2], ["generator"], ["generator"])
    for step in (1, 2):
        export_run(tmp_path / "run", tmp_path / str(step), step)
    old, new, mean = (
        load_file(folder / "generator/model.safetensors") for folder in (tmp_path / "1", tmp_path / "2", out)
    )
    assert all((value == (old[name] + new[name]) / 2).all() for name, value in mean.items())
    assert any((mean[name] != new[name]).any() for name in mean)
    assert "the average of the weights of 2 checkpoints, those of steps 1, 2" in text_of(out / "generator")


def test_an_average_of_what_cannot_be_averaged_is_refused_in_a_line(a_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has 2 finished checkpoints \(step-00000002, step-00000004\), not 3; give a"):
        average_run(a_run, 3)
    with pytest.raises(UserError, match="--last is 1; an average needs at least 2"):
        average_run(a_run, 1)
    state = a_run / "checkpoints/step-00000002/run_state.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps({**content, "phase": "generator_warmup"}))
    with pytest.raises(UserError, match=r"step-00000002 of .* is of the phase generator_warmup, .* cannot be averaged"):
        average_run(a_run, 2, tmp_path / "out")
    state.write_text(json.dumps({**content, "tokenizer": "another"}))
    with pytest.raises(UserError, match="have other tokenizers"):
        average_run(a_run, 2, tmp_path / "out")
    state.write_text(json.dumps(content | {"seconds": 1.0}))
    with pytest.raises(UserError, match="is damaged"):
        average_run(a_run, 2, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (a_run / "average").exists()
