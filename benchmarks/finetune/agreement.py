"""Does our fine-tuning score as transformers' example scripts do, on a checkpoint that is not ours?

python -m benchmarks.finetune.agreement --model FOLDER --data FOLDER --task trec --seeds 3

Seeds that are finished are kept in --work, and the same command goes on after them. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

from benchmarks.measure import write_figures
from data_pipeline.places.atomic import write_bytes
from electra_scale.export.named_model import NamedModel
from electra_scale.finetune.metrics import class_scores
from electra_scale.finetune.prepare import prepare, read_examples
from electra_scale.finetune.processes import Processes
from electra_scale.finetune.recipe import Choices
from electra_scale.finetune.seeds import fine_tune
from electra_scale.finetune.tasks.examples import Examples
from electra_scale.finetune.tasks.known import TASKS, known_task
from electra_scale.finetune.tasks.rows import Source

OURS, PLAIN, EXAMPLE = "our recipe", "our program, the example's settings", "the example script's way"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare our fine-tuning with transformers' Trainer, seed by seed.")
    classes = [name for name, task in TASKS.items() if task.kind == "classification"]
    parser.add_argument("--model", type=Path, required=True, help="folder of transformers with a checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder for each task")
    parser.add_argument("--task", required=True, choices=classes, help="a task of classes")
    parser.add_argument("--rows", type=int, help="first rows of train that are used; all if not given")
    parser.add_argument("--epochs", type=float, default=3.0, help="of all arms (3)")
    parser.add_argument("--rate", type=float, help="learning rate of our recipe; by the model's width if not given")
    parser.add_argument("--example-rate", type=float, default=5e-5, help="learning rate of the other two (5e-5)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each arm (3)")
    parser.add_argument("--arms", nargs="+", choices=("ours", "plain", "example"), default=["ours", "plain", "example"])
    parser.add_argument("--out", type=Path, default=Path("runs/bench/finetune.json"))
    parser.add_argument("--work", type=Path, help="folder for what is under way; beside --out if not given")
    given = parser.parse_args()
    given.work = given.work or given.out.with_suffix("")
    return given


def our_scores(examples: Examples, model: NamedModel, choices: Choices, seeds: int, out: Path) -> list[float]:
    """The main metric of each seed by the product's own functions."""
    found = fine_tune(prepare(model, examples, choices, 1), seeds, out, Processes(0, 1))
    return [seed["scores"][examples.task.main] for seed in found["seeds"]]


def example_scores(examples: Examples, folder: Path, rate: float, epochs: float, seeds: int, out: Path) -> list[float]:
    """The same as transformers' examples/pytorch/text-classification/run_glue.py does it: its model, its tokenizer, its
    arguments, Trainer's own optimizer and schedule; no code of ours but reading the rows and the metric."""
    task, found = examples.task, []
    settings = {"model": str(folder), "rows": len(examples.splits["train"]), "rate": rate, "epochs": epochs}
    assert task.labels is not None
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def encoded(split: str) -> list[dict[str, Any]]:
        rows = examples.splits[split]
        texts = [[row[role] for row in rows] for role in ("text", "text2") if role in task.columns]
        parts = tokenizer(*texts, max_length=task.length, truncation=True)
        return [
            {**{name: values[i] for name, values in parts.items()}, "label": row["label"]} for i, row in enumerate(rows)
        ]

    def metrics(prediction: Any) -> dict[str, float]:
        return class_scores(task.metrics, prediction.label_ids, np.asarray(prediction.predictions).argmax(-1))

    train, scored = encoded("train"), encoded(task.scored_on)
    for seed in range(seeds):
        kept = out / f"seed-{seed}.json"
        if kept.exists():
            record = json.loads(kept.read_text())
            if record["settings"] != settings:
                raise SystemExit(f"{kept} is of {record['settings']}, not of {settings}; choose another --work")
            found.append(record["score"])
            continue
        transformers.set_seed(seed)
        config = AutoConfig.from_pretrained(folder, num_labels=len(task.labels))
        trainer = Trainer(
            model=AutoModelForSequenceClassification.from_pretrained(folder, config=config),
            args=TrainingArguments(
                output_dir=str(out / f"trainer-{seed}"),
                per_device_train_batch_size=32,
                learning_rate=rate,
                num_train_epochs=epochs,
                seed=seed,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
            ),
            train_dataset=train,
            eval_dataset=scored,
            compute_metrics=metrics,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        found.append(float(trainer.evaluate()[f"eval_{task.main}"]))
        write_bytes(kept, json.dumps({"settings": settings, "score": found[-1]}).encode())
        print(f"{EXAMPLE}, seed {seed}: {task.main} {found[-1]:.4f}", flush=True)
    return found


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The difference of two means, and its standard error from the seeds' spread."""
    error = (statistics.variance(one) / len(one) + statistics.variance(other) / len(other)) ** 0.5
    return statistics.fmean(one) - statistics.fmean(other), error


def main() -> None:
    given = arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    examples = read_examples(known_task(given.task), Source(folder=given.data), None)
    if given.rows is not None:
        splits = {**examples.splits, "train": list(examples.splits["train"])[: given.rows]}
        examples = dataclasses.replace(examples, splits=splits)
    model = NamedModel(str(given.model), given.model)
    ours = Choices(epochs=given.epochs, rate=given.rate)
    plain = Choices(epochs=given.epochs, rate=given.example_rate, decay=1.0, weight_decay=0.0, warmup=0.0)
    seconds, scores = {}, {}
    (given.work / "example").mkdir(parents=True, exist_ok=True)
    arms: dict[str, tuple[str, Callable[[], list[float]]]] = {
        "ours": (OURS, lambda: our_scores(examples, model, ours, given.seeds, given.work / "ours")),
        "plain": (PLAIN, lambda: our_scores(examples, model, plain, given.seeds, given.work / "plain")),
        "example": (
            EXAMPLE,
            lambda: example_scores(
                examples, given.model, given.example_rate, given.epochs, given.seeds, given.work / "example"
            ),
        ),
    }
    for arm in given.arms:
        label, measured = arms[arm]
        started = time.monotonic()
        scores[label] = measured()
        seconds[label] = time.monotonic() - started
    print(f"\n{given.task}, {examples.task.main} of {given.seeds} seeds each")
    for label, values in scores.items():
        deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
        listed = ", ".join(f"{value:.4f}" for value in values)
        print(f"{label:40} {statistics.fmean(values):.4f} ± {deviation:.4f}   {listed}   {seconds[label]:.0f} s")
    differences = {}
    for label, values in scores.items():
        if label != EXAMPLE and EXAMPLE in scores and given.seeds > 1:
            gap, error = differences[label] = difference(values, scores[EXAMPLE])
            word = "within" if abs(gap) <= 2 * error else "outside"
            print(f"{label} less the example: {gap:+.4f}, standard error {error:.4f}, {word} two of them")
    write_figures(given, scores=scores, seconds=seconds, differences=differences)


if __name__ == "__main__":
    main()
