"""What is wrong with a task's rows, a model or an option is said in one line before anything is trained."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from electra_scale.cli import main
from tests.support.fixtures.small_encoders import VOCABULARY, questions, sentences, write_rows, write_tokenizer

Rows = list[dict[str, Any]]

OWN = {"classification": "text=sentence,label=label", "regression": "text=sentence,label=label"}


def changed(rows: Rows, index: int, **values: Any) -> Rows:
    return [*rows[:index], {**rows[index], **values}, *rows[index + 1 :]]


GOOD, SCORED = sentences(8, 0), sentences(4, 1)
TAGGED = [{"tokens": ["the", "film"], "tags": ["B-NP", "I-NP"]}, {"tokens": ["was"], "tags": ["O"]}]
ASKED = questions(4, 0)
ANSWER = ASKED[1]["answers"]

# kind or task, its train, its validation, what the line says
WRONG: list[tuple[str, Rows, Rows, str]] = [
    ("classification", GOOD, [], "validation.jsonl is empty"),
    ("classification", [], SCORED, "train.jsonl is empty"),
    ("classification", changed(GOOD, 2, label=None), SCORED, "row 3: a class must be a whole number or a name"),
    ("classification", changed(GOOD, 2, label=math.nan), SCORED, "not nan"),
    ("classification", changed(GOOD, 2, label=0.5), SCORED, "give --task regression for numbers"),
    ("classification", changed(GOOD, 2, sentence=None), SCORED, "sentence must be text, not nothing"),
    ("classification", changed(GOOD, 2, sentence=3), SCORED, "sentence must be text, not 3"),
    ("classification", GOOD, changed(SCORED, 1, label=7), "row 2: class '7' of label does not occur in train"),
    ("classification", [GOOD[0]] * 3, SCORED, "has one class only"),
    ("classification", [*GOOD, {"label": 1}], SCORED, "row 9 has no column 'sentence' for text"),
    ("cola", changed(GOOD, 2, label=2), SCORED, "row 3: label is '2', which cola does not have; it has 0 unacceptable"),
    ("cola", changed(GOOD, 2, label=-1), SCORED, "label is '-1'"),
    ("cola", GOOD, [{**row, "label": -1} for row in SCORED], "hides its labels"),
    ("regression", changed(GOOD, 2, label="high"), SCORED, "label must be a finite number, not 'high'"),
    ("regression", changed(GOOD, 2, label=math.nan), SCORED, "label must be a finite number, not nan"),
    ("regression", changed(GOOD, 2, label=True), SCORED, "label must be a finite number, not True"),
    ("tagging", TAGGED, [{"tokens": ["a", "b"], "tags": ["O"]}], "has 2 tokens and 1 tag"),
    ("tagging", TAGGED, [{"tokens": ["a"], "tags": ["B-PP"]}], "tag 'B-PP', which does not occur in train"),
    ("tagging", TAGGED, [{"tokens": [3.5], "tags": ["O"]}], "tokens must be a list of texts"),
    ("tagging", [{"tokens": [], "tags": []}], TAGGED, "has no row with tokens"),
    ("conll2000", TAGGED, [{"tokens": ["a"], "tags": ["B-XX"]}], "tag 'B-XX', which conll2000 does not have"),
    ("squad", changed(ASKED, 1, id="q0"), ASKED, "row 2 has the id 'q0' of row 1"),
    (
        "squad",
        changed(ASKED, 1, answers={"text": ["good"], "answer_start": [0]}),
        ASKED,
        "does not stand at character 0",
    ),
    ("squad", changed(ASKED, 1, answers={"text": ["good"], "answer_start": []}), ASKED, "two lists of equal length"),
    ("squad", changed(ASKED, 1, answers={"text": [""], "answer_start": [0]}), ASKED, "give a text and where it starts"),
    ("squad", changed(ASKED, 1, answers=None), ASKED, "row 2 has no answers to learn from"),
    ("squad", changed(ASKED, 1, question=" "), ASKED, "question must be a text that is not empty"),
    (
        "squad",
        [{**row, "answers": {"text": [], "answer_start": []}} for row in ASKED],
        ASKED,
        "no question with an answer",
    ),
]


@pytest.mark.parametrize(("task", "train", "scored", "said"), WRONG, ids=[f"{w[0]}-{w[3][:24]}" for w in WRONG])
def test_rows_that_are_not_what_the_task_needs_are_refused(
    task: str, train: Rows, scored: Rows, said: str, refusal: Callable[..., str], encoder: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "train.jsonl", train)
    write_rows(tmp_path / "validation.jsonl", scored)
    rows = ["--train", tmp_path / "train.jsonl", "--validation", tmp_path / "validation.jsonl", "--split", "validation"]
    columns = ["--columns", OWN[task]] if task in OWN else []
    line = refusal("--model", encoder, "--task", task, *rows, *columns)
    assert said in line


def test_a_task_that_is_not_known_is_refused_with_those_that_are(refusal: Callable[..., str], encoder: Path) -> None:
    line = refusal("--model", encoder, "--task", "colla", "--data", "x")
    assert "there is no task 'colla'; did you mean cola? there are cola, sst2, mrpc" in line
    assert "question-answering" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "trec"], "task trec needs its rows: give --data FOLDER"),
        (["--task", "classification"], "is for your own rows; give --train"),
        (
            ["--task", "cola", "--data", "TASKS", "--columns", "tokens=x"],
            "--columns names tokens; cola has text, text2, label",
        ),
        (["--task", "cola", "--data", "TASKS", "--columns", "text"], "is not ROLE=NAME"),
        (
            ["--task", "cola", "--data", "TASKS", "--columns", "text=words"],
            "has no column 'words' for text; it has sentence, label",
        ),
        (["--task", "cola", "--data", "TASKS", "--labels", "a,b"], "cola has labels of its own"),
        (["--task", "cola", "--data", "TASKS", "--split", "test"], "needs a test split and has train, validation"),
        (["--task", "cola", "--data", "TASKS", "--split", "dev"], "score on validation or test"),
        (["--task", "cola", "--data", "TASKS", "--train", "x"], "has its rows from files and from data"),
        (["--task", "cola", "--task", "cola", "--data", "TASKS"], "names one task twice"),
        (["--task", "cola", "--data", "NOWHERE"], "is no folder"),
        (["--task", "cola", "--data", "TASKS", "--seeds", "0"], "--seeds is 0"),
        (["--task", "cola", "--data", "TASKS", "--rate", "-1"], "--rate is -1.0; it must be above 0"),
        (["--task", "cola", "--data", "TASKS", "--decay", "1.5"], "--decay is 1.5; it must be at most 1"),
        (["--task", "cola", "--data", "TASKS", "--warmup", "1"], "--warmup is 1.0"),
        (["--task", "cola", "--data", "TASKS", "--license", "mine: all"], "--license 'mine: all' is no identifier"),
        (["--task", "cola", "--data", "TASKS", "--patience", "0"], "--patience is 0; it must be at least 1"),
        (["--task", "squad", "--data", "TASKS", "--length", "12"], "12 pieces are too few"),
        (["--suite", "larger"], "suite larger does not exist; give a file, or one of glue, small"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    arguments: list[str], said: str, refusal: Callable[..., str], encoder: Path, tasks: Path
) -> None:
    line = refusal("--model", encoder, *[str(tasks) if one == "TASKS" else one for one in arguments])
    assert said in line


def broken(encoder: Path, folder: Path, how: str) -> None:
    """A copy of the encoder with one thing wrong."""
    shutil.copytree(encoder, folder)
    if how == "no tokenizer":
        for path in folder.glob("tokenizer*"):
            path.unlink()
    elif how == "half a tokenizer":
        (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes()[:500])
    elif how == "more tokens":
        write_tokenizer(folder, [*VOCABULARY, "elephant"])
    elif how == "no padding":
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.pad_token = None
        tokenizer.save_pretrained(folder)
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "no weights":
        (folder / "model.safetensors").unlink()
    elif how == "half the weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    else:
        config = json.loads((folder / "config.json").read_text())
        config.update({"more layers": {"num_hidden_layers": 3}, "wider": {"hidden_size": 64}}[how])
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no tokenizer", "holds no tokenizer"),
        ("half a tokenizer", "the tokenizer of"),
        ("more tokens", "does not fit the model: 'elephant' has id"),
        ("no padding", "has no pad_token"),
        ("no config", "holds no model"),
        ("no weights", "cannot be loaded as a model for classification"),
        ("half the weights", "cannot be loaded as a model for classification"),
        ("more layers", "weights of its encoder"),
        ("wider", "weights of its encoder"),
    ],
)
def test_a_model_that_is_not_whole_is_refused(
    how: str, said: str, refusal: Callable[..., str], encoder: Path, tasks: Path, tmp_path: Path
) -> None:
    broken(encoder, tmp_path / "model", how)
    line = refusal("--model", tmp_path / "model", "--task", "cola", "--data", tasks)
    assert said in line


def test_the_other_ranks_of_a_machine_do_not_repeat_an_error(
    encoder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    capsys.readouterr()
    assert main(["finetune", "--model", str(encoder), "--task", "colla"]) == 2
    assert capsys.readouterr().err == ""


def test_what_is_not_installed_is_named_with_the_command_that_installs_it(
    refusal: Callable[..., str], encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "seqeval", None)
    line = refusal("--model", encoder, "--task", "cola")
    assert "fine-tuning needs seqeval, which is not installed: pip install 'electra-scale[finetune]'" in line
