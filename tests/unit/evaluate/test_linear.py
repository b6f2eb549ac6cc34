"""The linear probe: frozen states are those of transformers, the classifier scikit-learn's, bad tasks are named."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel

from data_pipeline.errors import UserError
from electra_scale.evaluate.linear import MOST_TRAINED, evaluate_linear, read_tasks, states
from electra_scale.evaluate.networks import open_encoder
from electra_scale.export.named_model import NamedModel
from tests.unit.evaluate.conftest import SENTENCES, WORDS

KINDS = ["discriminator", "bert", "modernbert"]


def task(folder: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], split: str = "validation") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), (split, test)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def made_up(number: int, seed: int) -> list[dict[str, Any]]:
    """Sentences whose class is whether they have the word boat."""
    draw = np.random.default_rng(seed)
    plain = [word for word in WORDS[:-2] if word != "boat"]
    rows = []
    for _ in range(number):
        label = int(draw.integers(2))
        words = [*draw.choice(plain, 5), *["boat"] * label]
        rows.append({"sentence": " ".join(draw.permutation(words)), "label": label})
    return rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_states_are_those_of_one_text_after_the_other(folders: dict[str, Path], kind: str, layer: int) -> None:
    network = open_encoder(kind, folders[kind])
    model = AutoModel.from_pretrained(folders[kind]).eval()
    texts = [*((text,) for text in SENTENCES), (SENTENCES[1], SENTENCES[3])]
    means, firsts = states(network, texts, layer, "mean"), states(network, texts, layer, "cls")
    for text, mean, first in zip(texts, means, firsts, strict=True):
        inputs = network.tokenizer(*text, return_tensors="pt")
        own = [token not in network.tokenizer.all_special_ids for token in inputs["input_ids"][0].tolist()]
        if kind == "modernbert":
            inputs.pop("token_type_ids", None)
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True)
        hidden = output.last_hidden_state[0] if layer == 2 else output.hidden_states[layer][0]
        assert np.allclose(mean, hidden[own].mean(0), atol=1e-5)
        assert np.allclose(first, hidden[0], atol=1e-5)


def test_accuracy_is_that_of_scikit_learn_on_standardised_states(electra_model: NamedModel, tmp_path: Path) -> None:
    train, test = made_up(120, 0), made_up(60, 1)
    tasks = read_tasks([str(task(tmp_path / "boats", train, test))])
    found = evaluate_linear(electra_model, tasks, -1, "mean")
    network = open_encoder("m", electra_model.folder)
    features = states(network, [(row["sentence"],) for row in [*train, *test]], 2, "mean")
    features -= features[: len(train)].mean(0)
    features /= features[: len(train)].std(0)
    classifier = LogisticRegression(C=found.settings["C"], max_iter=2000)
    classifier.fit(features[: len(train)], [row["label"] for row in train])
    expected = classifier.score(features[len(train) :], [row["label"] for row in test])
    (score,) = found.scores
    assert score.name == "boats"
    assert score.value == pytest.approx(expected)
    assert score.value > 0.6
    assert score.error == pytest.approx(math.sqrt(expected * (1 - expected) / len(test)))
    assert (score.count, found.settings["layer"]) == (len(test), 2)
    frequent = max((0, 1), key=[row["label"] for row in train].count)
    assert score.chance == pytest.approx([row["label"] for row in test].count(frequent) / len(test))


def test_a_layer_that_is_not_there_is_refused(electra_model: NamedModel, tmp_path: Path) -> None:
    tasks = read_tasks([str(task(tmp_path / "boats", made_up(9, 0), made_up(9, 0)))])
    for layer in (3, -4):
        with pytest.raises(UserError, match=f"--layer is {layer}, and electra has 2 layers"):
            evaluate_linear(electra_model, tasks, layer, "mean")


def test_texts_that_are_cut_are_counted(electra_model: NamedModel, capsys: pytest.CaptureFixture[str]) -> None:
    network = open_encoder("m", electra_model.folder)
    found = states(network, [("the " * 14,), ("the " * 15,), ("the " * 50, "it " * 50)], 2, "cls", "long")
    assert np.isfinite(found).all()
    assert "2 texts of 3 cut at the 16 tokens" in capsys.readouterr().err


def test_tasks_are_read_from_folders_of_folders_and_from_two_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = made_up(9, 0)
    pair = [{"sentence1": "a.", "sentence2": "b.", "label": label} for label in ("yes", "no")]
    task(tmp_path / "all" / "one", rows, rows, "test")
    task(tmp_path / "all" / "two", pair, pair)
    task(tmp_path / "all" / "scores", [{"sentence": "a", "label": 2.5}], rows)
    (tmp_path / "all" / "none").mkdir()
    found = read_tasks([str(tmp_path / "all"), f"{tmp_path}/all/one/train.jsonl,{tmp_path}/all/one/test.jsonl"])
    assert [(task.name, task.scored_on) for task in found] == [
        ("one", "test"),
        ("two", "validation"),
        ("train", "test"),
    ]
    assert found[1].train == [("a.", "b."), ("a.", "b.")]
    assert found[1].train_labels == ["yes", "no"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(lines) == 2
    assert "has no train split" in lines[0]
    assert "label 2.5, which is not a class" in lines[1]


def test_no_more_than_so_many_rows_are_fitted_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"sentence": f"a {n}", "label": n % 2} for n in range(MOST_TRAINED + 5)]
    folder = task(tmp_path / "big", rows, rows[:4])
    (found,) = read_tasks([str(folder)])
    assert len(set(found.train)) == MOST_TRAINED
    assert f"10,000 of {MOST_TRAINED + 5:,} rows" in capsys.readouterr().err
    assert read_tasks([str(folder)])[0].train == found.train


GOOD = [{"sentence": "a", "label": 0}, {"sentence": "b", "label": 1}]


@pytest.mark.parametrize(
    ("train", "test", "reason"),
    [
        ([], GOOD, "has no row"),
        (GOOD, [], "has no row"),
        (GOOD[:1], GOOD[:1], "has one class only, '0'"),
        (GOOD, [{"sentence": "c", "label": 2}], "has 1 label that .* lacks, such as '2'"),
        ([{"text": "a", "label": 0}], GOOD, "has no column 'sentence'; it has 'text', 'label'"),
        ([{"sentence": "a"}], GOOD, "has no column 'label'"),
        ([{"sentence": "a", "label": None}], GOOD, "has the label 'None'"),
        ([{"sentence": "a", "label": 0.5}], GOOD, "is not a class"),
        ([{"sentence1": "a", "label": 0}], GOOD, "has no column 'sentence2'"),
        ([{"sentence": ["a"], "label": 0}], GOOD, "where a text is expected"),
    ],
)
def test_what_is_not_a_task_is_named(
    tmp_path: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        read_tasks([str(task(tmp_path / "t", train, test))])


def test_without_scikit_learn_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
        UserError, match=r"needs scikit-learn, which is not installed: pip install 'electra-scale\[evaluate\]'"
    ):
        read_tasks(["anything"])


def test_folders_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        read_tasks([str(tmp_path / "none")])
    with pytest.raises(UserError, match="neither it nor a folder in it is a task"):
        read_tasks([str(tmp_path)])
    with pytest.raises(UserError, match="cannot read"):
        read_tasks([f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl"])
    folder = task(tmp_path / "t", GOOD, GOOD)
    with pytest.raises(UserError, match="2 tasks called 't'"):
        read_tasks([str(folder), str(folder)])
