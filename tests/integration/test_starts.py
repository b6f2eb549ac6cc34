"""A run that starts from published weights begins where transformers is, trains, and leaves as an export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, ElectraForPreTraining

from electra_scale.cli import main
from tests.support.fixtures.runs import plain, rows, run, write_recipe

pytestmark = pytest.mark.slow

SIZE = {"layers": 2, "hidden": 32, "ffn": 64, "heads": 2}
CHANGES = {
    "model.discriminator": SIZE,
    "model.generator": {**SIZE, "layers": 1},
    "generator_warmup.steps": 0,
    "schedule": {"steps": 20, "warmup_steps": 1},
    "optimizer.learning_rate": 1e-9,
    "checkpoint.every": 20,
    "logging": {"every": 20, "evaluate_every": 20, "evaluate_samples": 4, "pairs": 0},
}


def published(folder: Path, store: Path, words: int) -> Path:
    """A BERT of random weights with the tokenizer of a store."""
    config = BertConfig(
        vocab_size=words,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder)
    for file in (store / "tokenizer").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_twenty_steps_from_a_bert_and_its_export(store: Path, tmp_path: Path) -> None:
    bert = published(tmp_path / "bert", store, 800)
    path = write_recipe(tmp_path, store, **CHANGES, **{"model.init_from": str(bert)})
    result = run(plain("--config", path, "--run_dir", tmp_path / "run"), tmp_path)
    assert result.returncode == 0, result.stderr
    assert "layers 0 of 2" in result.stdout
    record = json.loads((tmp_path / "run/init_from.json").read_text())
    assert record["parts"]["discriminator_head"]["from"] is None
    assert record["parts"]["generator"]["notes"] == ["layers 0 of 2"]
    assert rows(tmp_path / "run")[-1]["step"] == 20
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    theirs = BertForMaskedLM.from_pretrained(bert).eval()
    ours = ElectraForPreTraining.from_pretrained(tmp_path / "out/discriminator").eval()
    ids = torch.tensor([[2, 20, 30, 40, 3]])
    with torch.no_grad():
        # The rate is so small that the encoder is that of the start.
        assert torch.allclose(ours.electra(ids)[0], theirs.bert(ids)[0], atol=1e-5)
        theirs.bert.encoder.layer = theirs.bert.encoder.layer[:1]
        generator = AutoModelForMaskedLM.from_pretrained(tmp_path / "out/generator").eval()
        assert torch.allclose(generator(ids).logits, theirs(ids).logits, atol=1e-5)


def test_a_start_that_cannot_be_is_one_line_and_trains_nothing(store: Path, tmp_path: Path) -> None:
    bert = published(tmp_path / "bert", store, 900)
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "zebra"]) + "\n")
    path = write_recipe(tmp_path, store, **CHANGES, **{"model.init_from": str(bert)})
    result = run(plain("--config", path, "--run_dir", tmp_path / "run"), tmp_path)
    assert result.returncode == 2
    [line] = [line for line in result.stderr.splitlines() if "error" in line]
    assert "another tokenizer" in line
    assert "6 tokens there, 800 here" in line
    assert not (tmp_path / "run/checkpoints").exists()
