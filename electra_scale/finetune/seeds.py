"""A task over several seeds: finished ones are read, an unfinished one continues, and the best model is kept."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from data_pipeline.errors import UserError
from data_pipeline.places.json_file import read_record, write_record
from data_pipeline.places.new_folder import new_folder
from data_pipeline.progress import log
from electra_scale.export.card import write_card
from electra_scale.export.fine_tuned_card import FineTunedCard
from electra_scale.finetune.prepare import Prepared
from electra_scale.finetune.processes import Processes
from electra_scale.finetune.training import all_scores, newest_checkpoint, train_seed

BEST, RESULT = "best", "result.json"

_SETTINGS, _SCORES, _SEED = "settings.json", "scores.json", "seed.json"

_DAMAGED = "delete the folder and run again"

_PLACE = ("model",)
"""What may change between two starts: the same weights may be named in another way."""


def fine_tune(
    prepared: Prepared, seeds: int, out: Path, processes: Processes, licence: str | None = None
) -> dict[str, Any]:
    """Train and score seeds 0 to ``seeds - 1``. ``out`` gets ``result.json``, ``best/`` and a folder for each seed.

    The card in ``best/`` names ``licence``, or that of the model's own card.

    Returns what ``result.json`` holds, on every rank.

    Raises:
        UserError: ``out`` holds results of other settings, or a seed's weights became infinite.
    """
    processes.from_main(lambda: claim(prepared, out))
    for note in prepared.notes if processes.is_main else ():
        log(f"{prepared.task.name}: {note}")
    finished = processes.from_main(lambda: _finished(out))
    for seed in range(seeds):
        if seed not in finished:
            _run(prepared, seed, seeds, out, processes)
    return processes.from_main(lambda: _finish(prepared, out, licence))


def claim(prepared: Prepared, out: Path) -> None:
    """Write down what the folder's results are of, or check that it is the same; one rank calls it.

    Raises:
        UserError: it is not the same, or the folder can't be made or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another folder with --out")
    settings = {"version": 1, **prepared.identity}
    found = read_record(out / _SETTINGS, dict, advice=_DAMAGED)
    if found is None:
        if (out / "config.json").is_file() or any(out.glob("seed-*")):
            raise UserError(f"{out} holds something else than fine-tuning results; choose another folder with --out")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make {out} ({error.strerror}); choose another folder with --out") from error
        write_record(out / _SETTINGS, settings)
        return
    other = [key for key in settings if key not in _PLACE and found.get(key) != settings[key]]
    if other and not _began(out):
        write_record(out / _SETTINGS, settings)
    elif other:
        changes = ", ".join(f"{key} was {_short(found.get(key))}, is {_short(settings[key])}" for key in other)
        raise UserError(f"{out} holds results of other settings ({changes}); choose another --out, or delete it")


def _began(out: Path) -> bool:
    """Whether something of a seed is there that another start would build on."""
    return any(out.glob(f"seed-*/{_SCORES}")) or any(out.glob("seed-*/checkpoint-*"))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _folder(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def _finished(out: Path) -> dict[int, dict[str, float]]:
    """The scores of all seeds that are done, those of earlier starts that asked for more seeds too."""
    found = {}
    for path in out.glob(f"seed-*/{_SCORES}"):
        read = read_record(path, _seed_and_scores, advice=_DAMAGED)
        if read is not None:
            found[read[0]] = read[1]
    return dict(sorted(found.items()))


def _seed_and_scores(content: dict[str, Any]) -> tuple[int, dict[str, float]]:
    return int(content["seed"]), {name: float(value) for name, value in content["scores"].items()}


def _run(prepared: Prepared, seed: int, seeds: int, out: Path, processes: Processes) -> None:
    task, folder = prepared.task, _folder(out, seed)
    checkpoint = processes.from_main(lambda: newest_checkpoint(folder))
    label = f"{task.name}, seed {seed + 1} of {seeds}"
    if checkpoint is not None and processes.is_main:
        log(f"{label}: continues from {checkpoint}")
    trainer = train_seed(
        prepared.build(seed),
        prepared.tokenizer,
        task,
        prepared.recipe,
        prepared.choices,
        prepared.train,
        prepared.stopped_by,
        folder,
        seed,
        checkpoint,
        processes,
        label,
    )
    model: Any = trainer.model
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise UserError(
            f"{label}: its weights are no longer finite numbers; give a smaller --rate than {prepared.recipe.rate:g}"
        )
    scores = all_scores(trainer, prepared.scored)

    def keep() -> None:
        # The model first: a seed with scores is never trained again.
        others = [other[task.main] for other in _finished(out).values()]
        if scores[task.main] > max(others, default=-math.inf):
            _keep_best(model, prepared.tokenizer, out, seed)
        write_record(folder / _SCORES, {"version": 1, "seed": seed, "scores": scores})
        for path in folder.glob("checkpoint-*"):
            shutil.rmtree(path, ignore_errors=True)
        log(f"{label}: {_line(scores)}")

    processes.from_main(keep)


def _keep_best(model: Any, tokenizer: Any, out: Path, seed: int) -> None:
    """Put a model where the best one is, whole or not at all."""
    partial, old = out / f".{BEST}.partial", out / f".{BEST}.old"
    for path in (partial, old):
        shutil.rmtree(path, ignore_errors=True)
    with new_folder(partial, "best model") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_record(folder / _SEED, {"version": 1, "seed": seed})
    if (out / BEST).exists():
        (out / BEST).rename(old)
    partial.rename(out / BEST)
    shutil.rmtree(old, ignore_errors=True)


def _finish(prepared: Prepared, out: Path, licence: str | None) -> dict[str, Any]:
    found, task = _finished(out), prepared.task
    best = read_record(out / BEST / _SEED, lambda content: int(content["seed"]), advice=_DAMAGED)
    if best not in found:
        raise UserError(f"{out / BEST} is no longer there, and the seeds that led to it are done; {_DAMAGED}")
    identity = dict(prepared.identity)
    result = {
        "version": 1,
        "model": prepared.model.name,
        "step": prepared.model.step,
        "random": prepared.model.random,
        "task": task.name,
        "kind": task.kind,
        "metric": task.main,
        "split": task.scored_on,
        "settings": {key: value for key, value in identity.items() if key not in ("model", "step", "task", "split")}
        | {"torch": str(torch.__version__), "transformers": transformers.__version__},
        "seeds": [
            {"seed": seed, "scores": scores, "folder": _folder(out, seed).name} for seed, scores in found.items()
        ],
        "mean": {name: statistics.fmean(values) for name, values in _by_metric(found.values())},
        "deviation": {
            name: statistics.stdev(values) if len(values) > 1 else None for name, values in _by_metric(found.values())
        },
        "best": {"seed": best, "folder": BEST},
    }
    write_record(out / RESULT, result)
    write_card(
        out / BEST,
        FineTunedCard(
            folder=out / BEST,
            base=prepared.model.name,
            base_folder=prepared.model.folder,
            result=result,
            seed=best,
            pairs="text2" in task.columns,
            notes=prepared.notes,
            licence=licence,
        ),
    )
    return result


def _by_metric(scores: Any) -> list[tuple[str, list[float]]]:
    rows: Sequence[Mapping[str, float]] = list(scores)
    return [(name, [row[name] for row in rows]) for name in rows[0]]


def _line(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
