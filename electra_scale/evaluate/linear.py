"""A linear classifier on frozen states: what can be read off an encoder without changing it."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.errors import UserError
from data_pipeline.extras import needs_extra
from data_pipeline.progress import counted, log, tracking
from electra_scale.data.noise import generator_key, hashes
from electra_scale.evaluate.networks import Network, open_encoder
from electra_scale.evaluate.rows import read_rows, text_in
from electra_scale.evaluate.scores import Evaluation, Score
from electra_scale.evaluate.sentences import batches, padded
from electra_scale.export.named_model import NamedModel

Pool = Literal["mean", "cls"]

REGULARISATION = 0.1
"""scikit-learn's C: the inverse strength of the L2 penalty on the weights of standardised features."""

MOST_TRAINED = 10_000
"""Rows that the classifier is fitted to; more of them hardly change it."""

_ITERATIONS = 2000
_POSITIONS = 16_384


@dataclass(frozen=True)
class Task:
    """Texts (one or two each) with their classes; fitted to ``train``, scored on the split called ``scored_on``."""

    name: str
    train: list[tuple[str, ...]]
    train_labels: list[str]
    test: list[tuple[str, ...]]
    test_labels: list[str]
    scored_on: str


def read_tasks(names: Sequence[str], seed: int = 0) -> list[Task]:
    """The tasks of folders, of folders of such folders, and of pairs of files ``TRAIN.jsonl,TEST.jsonl``.

    A task's folder has ``train`` and ``validation`` or ``test`` as .jsonl or .jsonl.gz. Rows have ``sentence``, or
    ``sentence1`` and ``sentence2``, and ``label``. In a folder of folders, those that are not tasks of
    this kind are left out, with a line.

    Raises UserError for what is none of these, or whose labels do not suit a classifier, and without scikit-learn.
    """
    with needs_extra("evaluate", "scikit-learn", "the linear probe (--linear)"):
        import sklearn  # noqa: F401
    found: list[Task] = []
    for name in names:
        if "," in name:
            train, test = map(Path, name.split(",", 1))
            found.append(_task(train.name.partition(".")[0], train, test, "test", seed))
            continue
        folder = Path(name)
        if not folder.is_dir():
            raise UserError(
                f"--linear {name}: there is no such folder; name a task's folder (train.jsonl and validation.jsonl or "
                "test.jsonl), or two files as TRAIN.jsonl,TEST.jsonl"
            )
        if _split(folder, "train") is not None:
            found.append(_of_folder(folder, seed))
            continue
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
        before = len(found)
        for path in inside:
            try:
                found.append(_of_folder(path, seed))
            except UserError as error:
                log(f"left out: {error}")
        if len(found) == before:
            raise UserError(
                f"--linear {name}: neither it nor a folder in it is a task with a train split; name another"
            )
    names_found = Counter(task.name for task in found)
    twice = [name for name, count in names_found.items() if count > 1]
    if twice:
        raise UserError(f"--linear names {counted(names_found[twice[0]], 'task')} called {twice[0]!r}; rename one")
    return found


def evaluate_linear(model: NamedModel, tasks: Sequence[Task], layer: int, pool: Pool) -> Evaluation:
    """Accuracy on each task, with its standard error; chance is the share of the class that is most frequent in train.

    ``layer`` counts hidden states: 0 the embeddings, 1 the first layer's, -1 the last one's. Raises UserError if
    there is no such layer.
    """
    network = open_encoder(model.name, model.folder)
    layers = int(network.model.config.num_hidden_layers)
    if not -layers - 1 <= layer <= layers:
        raise UserError(
            f"--layer is {layer}, and {model.name} has {layers} layers; give one from 0 (embeddings) to {layers}, or "
            "-1 for the last"
        )
    chosen = layer % (layers + 1)
    scores = [_score(network, task, chosen, pool) for task in tasks]
    settings = {"layer": chosen, "pool": pool, "C": REGULARISATION, "scored_on": {t.name: t.scored_on for t in tasks}}
    variant = "" if (chosen, pool) == (layers, "mean") else f"layer-{chosen}-{pool}"
    return Evaluation(model, "linear", "encoder", scores, settings, variant)


def _score(network: Network, task: Task, layer: int, pool: Pool) -> Score:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = states(network, [*task.train, *task.test], layer, pool, task.name)
    train, test = features[: len(task.train)], features[len(task.train) :]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=_ITERATIONS))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier.fit(train, task.train_labels)
    if any(issubclass(one.category, ConvergenceWarning) for one in caught):
        log(f"warning: the classifier of {task.name} on {network.name} had not converged after {_ITERATIONS} steps")
    correct = classifier.predict(test) == np.array(task.test_labels)
    share, count = float(correct.mean()), len(correct)
    frequent = Counter(task.train_labels).most_common(1)[0][0]
    chance = task.test_labels.count(frequent) / count
    return Score(task.name, share, math.sqrt(share * (1 - share) / count), count, chance)


@torch.no_grad()
def states(
    network: Network, texts: Sequence[tuple[str, ...]], layer: int, pool: Pool, label: str = ""
) -> NDArray[np.float64]:
    """Frozen states (n,H) of texts: at [CLS], or the mean over the tokens of the text itself.

    Texts longer than the model reads are cut, and a line says how many.
    """
    rows: list[list[int]] = []
    kinds: list[list[int]] = []
    own: list[list[bool]] = []
    cut: list[tuple[str, ...]] = []
    for text in texts:
        encoded = network.tokenizer(*text, return_special_tokens_mask=True, return_token_type_ids=True, verbose=False)
        if len(encoded["input_ids"]) > network.longest:
            cut.append(text)
            encoded = network.tokenizer(
                *text,
                return_special_tokens_mask=True,
                return_token_type_ids=True,
                truncation=True,
                max_length=network.longest,
            )
        rows.append(encoded["input_ids"])
        kinds.append(encoded["token_type_ids"])
        own.append([not flag for flag in encoded["special_tokens_mask"]])
    if cut:
        log(
            f"{network.name}, {label}: {counted(len(cut), 'text')} of {len(texts):,} cut at the {network.longest} "
            f"tokens that the model reads, such as {cut[0][0][:60]!r}"
        )
    found = np.zeros((len(rows), int(network.model.config.hidden_size)))
    typed = int(getattr(network.model.config, "type_vocab_size", 0) or 0) > 1
    with tracking(len(rows), 0, f"{network.name}: {label}", unit="text") as advance:
        for chosen in batches([len(row) for row in rows], _POSITIONS):
            ids, attended = padded(network, [rows[index] for index in chosen])
            inputs = {"input_ids": ids, "attention_mask": attended}
            if typed:
                inputs["token_type_ids"] = padded(network, [kinds[index] for index in chosen])[0] * attended
            output = network.model(**inputs)
            # The last one's may have a norm behind it.
            last = layer == network.model.config.num_hidden_layers
            hidden = (output.last_hidden_state if last else output.hidden_states[layer]).double()
            for row, index in enumerate(chosen):
                places = [place for place, flag in enumerate(own[index]) if flag] if pool == "mean" else [0]
                # A text without a token of its own has the states of its special tokens.
                found[index] = hidden[row, places or slice(0, len(rows[index]))].mean(0).cpu().numpy()
                advance()
    return found


def _of_folder(folder: Path, seed: int) -> Task:
    train = _split(folder, "train")
    scored_on = next((name for name in ("validation", "test") if _split(folder, name) is not None), None)
    if train is None or scored_on is None:
        missing = "train" if train is None else "validation or test"
        raise UserError(
            f"{folder} has no {missing} split (.jsonl or .jsonl.gz), so no classifier can be fitted and scored"
        )
    test = _split(folder, scored_on)
    assert test is not None
    return _task(folder.name, train, test, scored_on, seed)


def _split(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz") if path.is_file()), None)


def _task(name: str, train: Path, test: Path, scored_on: str, seed: int) -> Task:
    texts, labels = _read(train)
    if len(texts) > MOST_TRAINED:
        order = np.argsort(hashes(generator_key(seed, "linear"), np.arange(len(texts))), kind="stable")[:MOST_TRAINED]
        log(f"{name}: {MOST_TRAINED:,} of {len(texts):,} rows of {train} are fitted to")
        texts, labels = [texts[index] for index in order], [labels[index] for index in order]
    test_texts, test_labels = _read(test)
    if len(set(labels)) < 2:
        raise UserError(f"{train} has one class only, {labels[0]!r}; a classifier needs two")
    unknown = sorted(set(test_labels) - set(labels))
    if unknown:
        raise UserError(
            f"{test} has {counted(len(unknown), 'label')} that {train} lacks, such as {unknown[0]!r}; add rows of it "
            "or leave them out"
        )
    return Task(name, texts, labels, test_texts, test_labels, scored_on)


def _read(path: Path) -> tuple[list[tuple[str, ...]], list[str]]:
    rows = read_rows(path)
    columns = ("sentence1", "sentence2") if "sentence1" in rows[0] else ("sentence",)
    texts, labels = [], []
    for number, row in enumerate(rows, 1):
        where = f"row {number} of {path}"
        texts.append(tuple(text_in(row, columns, where)))
        labels.append(_label(row, where))
    return texts, labels


def _label(row: dict[str, Any], where: str) -> str:
    if "label" not in row:
        raise UserError(f"{where} has no column 'label'; it has {', '.join(map(repr, row))}")
    label = row["label"]
    if isinstance(label, float) and not label.is_integer():
        raise UserError(
            f"{where} has the label {label}, which is not a class; the linear probe classifies, it does not fit numbers"
        )
    if not isinstance(label, str | int | float):
        raise UserError(f"{where} has the label {str(label)[:40]!r}; a label is a whole number or a word")
    return str(int(label)) if isinstance(label, float) else str(label)
