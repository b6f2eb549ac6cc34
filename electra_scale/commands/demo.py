"""``electra-scale demo``: the main job from text to an encoder and its scores, with the commands a user would type."""

from __future__ import annotations

import json
import shlex
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.build.build import build_store
from data_pipeline.config import BuildConfig, SourceConfig, SourceKind, TokenizerConfig
from data_pipeline.corpus.fetch import fetch_corpus
from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from data_pipeline.progress import log
from data_pipeline.read.passed_over import PassedOver
from data_pipeline.read.walk import Walk
from data_pipeline.store.manifest import Manifest
from electra_scale.commands.launched_training import run_training
from electra_scale.commands.showcase import show
from electra_scale.data.pairs import KINDS
from electra_scale.data.store import Store
from electra_scale.evaluate.pairs import evaluate_pairs, pairs_of
from electra_scale.export.named_model import RANDOM, named_model
from electra_scale.export.run import export_run
from electra_scale.recipe.parse import parse_recipe, recipe_of_run, recipe_parser
from electra_scale.recipe.shipped import find_recipe
from electra_scale.report.command import write_report
from electra_scale.train.checkpoint import state as checkpoint

CORPUS_MB = 52.0
"""Text that the demo asks for: enough for its ten million tokens, small enough for minutes."""

_PAIRS = 1000
"""Pairs of each kind at most: more than the demo's held-out text has."""

_PAIR_ROWS = {"swapped": "two words swapped", "replaced": "a word replaced"}

_STOP = "stop"
"""The file in the run folder that asks the training to stop."""

_KINDS: dict[str, SourceKind] = {".txt": "text", ".jsonl": "jsonl", ".parquet": "parquet"}


def run_demo(out: Path, corpus: Path | None, recipe: str, ranks: int) -> None:
    """Corpus, store, training on ``ranks`` ranks, pairs, export, summary; a second call resumes where one stopped.

    ``recipe`` is a file or the name of a shipped one. Raises UserError where a step fails; what the steps before it
    made is kept.
    """
    started = time.monotonic()
    # What cannot work is refused before minutes are spent on the corpus.
    chosen, _ = parse_recipe(recipe_parser("demo"), ["--config", str(find_recipe(recipe))], quiet=True)
    if not chosen.corruption.uses_generator:
        raise UserError(
            f"the demo shows what a generator has learned, but recipe {recipe} has corruption.kind "
            f"{chosen.corruption.kind}, which has none; train it with python -m electra_scale.pretrain"
        )
    if corpus is None:
        _announce("1/6 corpus: real English text, fetched once")
        fetch_corpus(out / "corpus", CORPUS_MB)
        sources = [SourceConfig(kind="jsonl", paths=[str(out / "corpus" / "*.jsonl.gz")])]
    else:
        _announce(f"1/6 corpus: your text, {corpus}")
        sources = own_sources(corpus)

    _announce(f"2/6 store: {out / 'store'}")
    manifest = build_store(small_store(out / "store", sources))

    command = training_command(out, recipe, ranks)
    _announce(f"3/6 training: {shlex.join(command)}")
    interrupted = run_training(command, out / _STOP)
    # The launcher's exit code is 0 after some failures, so the run's own state decides.
    state = checkpoint.newest(out / "checkpoints")
    if interrupted:
        # Its own lines have said what is saved.
        raise KeyboardInterrupt
    if state is None or not state.finished:
        reached = "before its first checkpoint" if state is None else f"at step {state.step}"
        raise UserError(f"training stopped {reached}; see {out}/log.txt, then run the same command to resume")

    _announce("4/6 pairs: held-out sentences against copies with two words swapped, and with one replaced")
    pairs = score_pairs(out)

    _announce(f"5/6 export: {out / 'export'}")
    # An export is made from the run's checkpoint alone, so an older one is replaced.
    shutil.rmtree(out / "export", ignore_errors=True)
    export_run(out, out / "export")

    _announce("6/6 report and summary")
    report = write_page(out)
    summary = summarise(out, manifest, state.world_size, time.monotonic() - started) | pairs
    write_bytes(out / "summary.json", json.dumps(summary, indent=1).encode() + b"\n")
    print(table(summary, out, report))
    show(out / "export")


def score_pairs(run: Path) -> dict[str, float | None]:
    """The shares of pairs that the discriminator of a run prefers rightly, and what random weights of its size do.

    By their names in the summary; None, with a line that says why, where the held-out text gives no pairs.
    """
    store = Store(run / "store")
    found: dict[str, float | None] = {}
    for key in (key for kind in KINDS for key in (f"pairs_{kind}", f"pairs_{kind}_random")):
        found[key] = None
    try:
        pairs = pairs_of(store, _PAIRS, seed=0)
        for name, ending in ((str(run), ""), (f"{RANDOM}{run}", "_random")):
            with named_model(name) as model:
                evaluation = evaluate_pairs(model, "discriminator", pairs, store.url, seed=0)
            evaluation.write()
            for score in evaluation.scores:
                found[f"{score.name}{ending}"] = score.value if score.count else None
    except UserError as error:
        log(f"no pairs: {error}")
    return found


def write_page(run: Path) -> Path | None:
    """The report of a run; None, with a line that says why, where it cannot be written."""
    try:
        return write_report([run])
    except UserError as error:
        log(f"no report: {error}")
        return None


def small_store(out: Path, sources: list[SourceConfig]) -> BuildConfig:
    """A build of some tens of megabytes: a small vocabulary, and tasks that keep every core busy."""
    return BuildConfig(
        out=str(out),
        sources=sources,
        tokenizer=TokenizerConfig(vocab_size=4096, sample_bytes=20_000_000),
        held_out=0.01,
        task_bytes=8_000_000,
    )


def own_sources(corpus: Path) -> list[SourceConfig]:
    """Sources for a user's file or folder, one per kind of file in it, and a line about what is left out.

    Raises:
        UserError: there is no file of these kinds, or something can't be read.
    """
    passed = PassedOver()
    files = sorted(map(Path, Walk(None, passed).expand(str(corpus))))
    if not files:
        raise UserError(f"corpus {corpus} does not exist or is empty; give a file or a folder")
    paths: dict[SourceKind, list[str]] = {}
    for path in files:
        suffix = next((suffix for suffix in path.suffixes if suffix in _KINDS), None)
        if suffix is None:
            passed.add("file", f"its name has none of {', '.join(_KINDS)}", str(path))
        else:
            paths.setdefault(_KINDS[suffix], []).append(str(path))
    for line in passed.lines():
        log(f"corpus: {line}")
    if not paths:
        raise UserError(f"corpus {corpus} has no .txt, .jsonl or .parquet file (.gz and .zst are fine too)")
    return [SourceConfig(kind=kind, paths=found) for kind, found in paths.items()]


def training_command(out: Path, recipe: str, ranks: int) -> list[str]:
    """The launcher's command line: on GPUs if there is one for every rank, else on the CPU."""
    devices = ["--num_gpus" if torch.cuda.device_count() >= ranks else "--num_accelerators", str(ranks)]
    launcher = Path(sys.executable).with_name("deepspeed")
    run = ["--config", recipe, "--run_dir", str(out), "--data.store", str(out / "store"), "--resume", "auto"]
    run += ["--stop_file", str(out / _STOP)]
    return [str(launcher), *devices, "--module", "electra_scale.pretrain", *run]


def summarise(out: Path, manifest: Manifest, ranks: int, seconds: float) -> dict[str, Any]:
    """The figures of a finished demo, from the store's manifest and the run's metrics."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    joint = [row for row in rows if row["phase"] == "joint"]
    evaluated = [row for row in joint if "eval/auc" in row]
    logged = [row for row in joint if "loss/total" in row]
    recipe = recipe_of_run(out / "recipe.yaml")
    quarter_step = recipe.generator_warmup.steps + recipe.schedule.steps / 4
    quarter = min(evaluated, key=lambda row: abs(row["step"] - quarter_step))
    counts = Store(out / "store").token_counts().astype(np.float64)
    shares = counts[counts > 0] / counts.sum()
    end = evaluated[-1]
    return {
        "documents": manifest.counts["documents"],
        "tokens": manifest.counts["tokens"],
        "steps": recipe.schedule.steps,
        "generator_warmup_steps": recipe.generator_warmup.steps,
        "ranks": ranks,
        "sampler": recipe.corruption.sampler,
        "focal_gamma": recipe.corruption.focal_gamma,
        "tokens_per_second": statistics.median(row["speed/tokens_per_second"] for row in logged),
        "seconds": seconds,
        "generator_loss": logged[-1]["loss/generator"],
        "discriminator_loss": logged[-1]["loss/discriminator"],
        "unigram_entropy": float(-(shares * np.log(shares)).sum()),
        "heldout_generator_loss": end["eval/generator_cross_entropy"],
        "heldout_discriminator_loss": end["eval/discriminator_loss"],
        "auc_at_quarter": quarter["eval/auc"],
        "auc": end["eval/auc"],
        "disc_loss_variance_masked": logged[-1]["disc_loss_variance/masked"],
    }


def table(summary: dict[str, Any], out: Path, report: Path | None) -> str:
    """The summary as lines of text, one figure a line."""
    below = summary["unigram_entropy"] - summary["heldout_generator_loss"]
    rows = [
        ("documents", f"{summary['documents']:,}"),
        ("tokens in the store", f"{summary['tokens']:,}"),
        (
            "optimizer steps",
            f"{summary['generator_warmup_steps']} generator warm-up, {summary['steps']} joint "
            f"({summary['sampler']}, focal {summary['focal_gamma']:g}) on {summary['ranks']} ZeRO-2 ranks",
        ),
        ("tokens/s, joint", f"{summary['tokens_per_second']:,.0f}"),
        ("generator loss, last step", f"{summary['generator_loss']:.3f}"),
        ("discriminator loss, last step", f"{summary['discriminator_loss']:.4f}"),
        (
            "generator, held out",
            f"{summary['heldout_generator_loss']:.3f} nats, {below:.2f} below the unigram entropy of "
            f"{summary['unigram_entropy']:.3f}",
        ),
        ("discriminator, held out", f"{summary['heldout_discriminator_loss']:.4f}"),
        ("AUC, held out", f"{summary['auc']:.4f} (at a quarter of the joint steps {summary['auc_at_quarter']:.4f})"),
        *((_PAIR_ROWS[kind], _preferred(summary, kind)) for kind in KINDS),
        ("disc_loss_variance/masked", f"{summary['disc_loss_variance_masked']:.4f}"),
        ("time", f"{summary['seconds'] / 60:.1f} minutes"),
        ("report", f"{report}, a page that opens in a browser" if report else "none"),
        ("TensorBoard", f"tensorboard --logdir {out}"),
        ("export", f"{out / 'export'}/discriminator, {out / 'export'}/generator"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _preferred(summary: dict[str, Any], kind: str) -> str:
    """How often the true sentence of a pair is preferred, trained and random weights side by side."""
    trained, drawn = summary[f"pairs_{kind}"], summary[f"pairs_{kind}_random"]
    if trained is None or drawn is None:
        return "none in the held-out text"
    return f"{trained:.3f} of the true sentences preferred, by random weights {drawn:.3f}, by chance 0.500"


def _announce(text: str) -> None:
    print(f"\n== {text}", flush=True)
