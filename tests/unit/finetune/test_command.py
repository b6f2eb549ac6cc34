"""From a command to scores and a model that plain transformers loads, for each kind of task."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.pipelines import SUPPORTED_TASKS

from electra_scale.cli import main
from tests.support.fixtures.small_encoders import questions, sentences, write_encoder, write_rows

FAST = ["--rate", "0.01", "--epochs", "8", "--batch", "8"]

Run = Callable[..., dict[str, Any]]


def test_a_classifier_is_learned_and_loads_in_a_pipeline(
    finetune: Run, encoder: Path, tasks: Path, tmp_path: Path
) -> None:
    result = finetune("--model", encoder, "--task", "cola", "--data", tasks, "--seeds", 2, *FAST, "--epochs", 12)
    assert result["metric"] == "matthews"
    assert [seed["seed"] for seed in result["seeds"]] == [0, 1]
    scores = [seed["scores"]["matthews"] for seed in result["seeds"]]
    assert max(scores) == 1.0
    assert result["mean"]["matthews"] == pytest.approx(sum(scores) / 2)
    assert result["deviation"]["matthews"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    assert scores[result["best"]["seed"]] == max(scores)
    best = tmp_path / "out" / "best"
    said = pipeline("text-classification", model=str(best))(["the plot was great", "the film was awful"])
    assert [answer["label"] for answer in said] == ["acceptable", "unacceptable"]
    assert not list((tmp_path / "out").glob("seed-*/checkpoint-*"))


def test_tags_are_learned_and_load_in_a_pipeline(finetune: Run, encoder: Path, tasks: Path, tmp_path: Path) -> None:
    result = finetune("--model", encoder, "--task", "conll2000", "--data", tasks, *FAST)
    assert result["split"] == "test"
    assert result["mean"]["f1"] == 1.0
    tagger = pipeline("token-classification", model=str(tmp_path / "out" / "best"), aggregation_strategy="simple")
    assert [(part["entity_group"], part["word"]) for part in tagger("the plot was good")] == [
        ("NP", "the plot"),
        ("VP", "was"),
        ("ADJP", "good"),
    ]


def test_similarity_is_learned(finetune: Run, encoder: Path, tasks: Path, tmp_path: Path) -> None:
    result = finetune("--model", encoder, "--task", "stsb", "--data", tasks, *FAST)
    assert set(result["mean"]) == {"spearman", "pearson"}
    assert result["deviation"] == {"spearman": None, "pearson": None}
    best = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "best")
    assert best.config.num_labels == 1


@pytest.mark.slow
@pytest.mark.parametrize("task", ["squad", "squad_v2"])
def test_answers_are_learned_and_found_with_transformers_alone(
    task: str, finetune: Run, encoder: Path, tasks: Path, tmp_path: Path
) -> None:
    result = finetune("--model", encoder, "--task", task, "--data", tasks, *FAST, "--epochs", "16")
    assert ("threshold" in result["mean"]) == (task == "squad_v2")
    best = tmp_path / "out" / "best"
    question, context = "what was the film", "the film was good"
    if "question-answering" in SUPPORTED_TASKS:
        # Releases of transformers before 5.
        assert pipeline("question-answering", model=str(best))(question=question, context=context)["answer"] == "good"
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(best), AutoTokenizer.from_pretrained(best)
    inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = inputs.pop("offset_mapping")[0]
    with torch.no_grad():
        output = model(**inputs)
    start, end = (scores[0].argmax() for scores in (output.start_logits, output.end_logits))
    assert context[offsets[start][0] : offsets[end][1]] == "good"
    assert result["mean"]["exact_match"] > 0.6


def test_a_users_own_rows_of_any_kind_of_file_are_a_task(
    finetune: Run, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, seed in (("train", 0), ("validation", 1)):
        rows = sentences(24, seed)
        lines = [f"{row['sentence']},{'good' if row['label'] else 'bad'}" for row in rows]
        (tmp_path / f"{split}.csv").write_text("review,stars\n" + "\n".join(lines) + "\n")
    files = ["--train", tmp_path / "train.csv", "--validation", tmp_path / "validation.csv"]
    columns = ["--columns", "text=review,label=stars", "--name", "reviews"]
    result = finetune("--model", encoder, "--task", "classification", *files, *columns, *FAST)
    assert (result["task"], result["metric"]) == ("reviews", "accuracy")
    assert set(result["mean"]) == {"accuracy", "f1_macro"}
    assert result["settings"]["labels"] == ["bad", "good"]
    assert "reviews, " in capsys.readouterr().out
    said = pipeline("text-classification", model=str(tmp_path / "out" / "best"))("the plot was great")
    assert said[0]["label"] == "good"


def test_finished_seeds_are_read_and_other_settings_are_refused(
    finetune: Run, encoder: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["--model", encoder, "--task", "cola", "--data", tasks, "--epochs", "1"]
    first = finetune(*one)
    written = (tmp_path / "out" / "seed-0" / "scores.json").stat().st_mtime_ns
    card = tmp_path / "out" / "best" / "README.md"
    assert "No licence was given" in card.read_text()
    model = shutil.copytree(encoder, tmp_path / "model")
    (model / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    second = finetune("--model", model, *one[2:], "--seeds", 2)
    assert "license: cc-by-4.0" in card.read_text()
    finetune(*one, "--seeds", 2, "--license", "apache-2.0")
    assert "license: apache-2.0" in card.read_text()
    assert (tmp_path / "out" / "seed-0" / "scores.json").stat().st_mtime_ns == written
    assert second["seeds"][0] == first["seeds"][0]
    assert len(second["seeds"]) == 2
    capsys.readouterr()
    assert main(["finetune", *map(str, one), "--rate", "0.5", "--out", str(tmp_path / "out")]) == 2
    assert "holds results of other settings (rate was 0.0003, is 0.5)" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out" / "best")
    assert main(["finetune", *map(str, one), "--out", str(tmp_path / "out")]) == 2
    assert "delete the folder and run again" in capsys.readouterr().err


def test_early_stopping_keeps_the_best_epoch(
    finetune: Run, encoder: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = finetune("--model", encoder, "--task", "conll2000", "--data", tasks, *FAST, "--patience", 1)
    assert result["mean"]["f1"] == 1.0
    said = capsys.readouterr().err
    assert "conll2000 has no validation split, so 3 rows of train decide when to stop" in said
    assert result["settings"]["rows"] == {"train": 29, "test": 16, "validation": 3}
    # 4 steps an epoch, 8 epochs: it stopped before the end.
    assert re.search(r"conll2000, seed 1 of 1: (\d+) of 32 steps done", said)[1] != "32"  # type: ignore[index]


@pytest.mark.slow
def test_a_suite_compares_models_with_random_weights_in_one_table(
    encoder: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(f"data: {tasks}\nseeds: 2\ntasks:\n  - {{task: cola, epochs: 1}}\n  - {{task: stsb, epochs: 1}}\n")
    models = ["--model", str(encoder), "--model", f"random:{encoder}"]
    assert main(["finetune", *models, "--suite", str(suite), "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "suite.json").read_text())["results"]
    assert [(result["task"], result["random"]) for result in results] == [
        ("cola", False),
        ("cola", True),
        ("stsb", False),
        ("stsb", True),
    ]
    table = (tmp_path / "out" / "suite.md").read_text()
    assert table.startswith("Mean ± standard deviation over 2 seeds.\n\n| model | cola (matthews) | stsb (spearman) |")
    assert f"| random:{encoder} | " in table
    assert table.partition("\n\n")[2] in capsys.readouterr().out + "\n"
    assert all((path / "best" / "config.json").is_file() for path in (tmp_path / "out").glob("*/*"))
    assert len(list((tmp_path / "out").glob("*/*"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_other_encoders_are_tuned_by_their_own_class(kind: str, finetune: Run, tasks: Path, tmp_path: Path) -> None:
    model = write_encoder(tmp_path / "model", kind)
    result = finetune("--model", model, "--task", "cola", "--data", tasks, "--epochs", "1", "--batch", "8")
    assert len(result["seeds"]) == 1
    config = json.loads((tmp_path / "out" / "best" / "config.json").read_text())
    names = {"bert": "BertForSequenceClassification", "modernbert": "ModernBertForSequenceClassification"}
    assert config["architectures"] == [names[kind]]
    assert config["id2label"] == {"0": "unacceptable", "1": "acceptable"}


def test_what_is_cut_or_left_out_is_said(
    finetune: Run, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "validation"):
        rows = questions(6, 0, unanswerable=True)
        rows[0]["context"] += " . the actor was dull" * 20
        write_rows(tmp_path / "squad" / f"{split}.jsonl", rows)
    finetune("--model", encoder, "--task", "squad", "--data", tmp_path, "--epochs", "1", "--length", "512")
    said = capsys.readouterr().err
    assert "squad: 2 questions without an answer left out of" in said
    assert "(such as q2); squad_v2 takes them" in said
    assert "length 512 becomes 96, all positions that the model has" in said
    assert "train: 4 questions give" in said
