"""Build and loader beside their peers: one table, one run, the same text, the same cores.

python -m benchmarks.peers.data --text CORPUS --megabytes 50 --rounds 3 --out runs/bench/data.json

See benchmarks/README.md for what is measured and what is fair about it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Outcome, drop_page_cache, machine, pick_cores, run, script, spread, table
from benchmarks.peers.corpus_text import Text, build_command, train_tokenizer, write_text

OURS = "electra-scale"
WITH_NOISE = "electra-scale, masks and noise"
BUILD_PEERS = ("datasets", "datatrove")
LOADER_PEERS = ("mosaicml-streaming", "litdata", "datasets")
LENGTH = 128
BATCH = 128
TASK_BYTES = 4 << 20
"""Of our build; its default of 32 MiB suits terabytes, and would leave a core idle on a text of this size."""
WORKERS_TRIED = (0, 1, 2)

BUILD_TARGET = 15.0
LOADER_TARGET = 3.0
CONSUMPTION_TARGET = 50.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure build and loader beside their peers.")
    parser.add_argument("--text", type=Path, required=True, help="JSON Lines with a `text` field: a file or a folder")
    parser.add_argument("--megabytes", type=float, default=50.0, help="MB of text to use (50)")
    parser.add_argument(
        "--cores", type=int, default=2, help="cores that every contestant may use, and its processes (2)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is measured, in turn (3)")
    parser.add_argument("--only", choices=("build", "loader"), help="one of the two parts")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bench/data"), help="scratch folder, emptied at the start"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench/data.json"), help="JSON with every figure")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json for all; left out, one is trained on the text")
    parser.add_argument("--vocabulary", type=int, default=30522, help="entries of a trained vocabulary (30522)")
    parser.add_argument("--clean-peers", action="store_true", help="peers clean text by our function too")
    parser.add_argument(
        "--consumption",
        type=float,
        default=7445.0,
        help="tokens/s that a two-core training run takes (docs/experiments.md)",
    )
    return parser.parse_args()


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


class Bench:
    """What all parts share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.cores = pick_cores(options.cores)
        self.work: Path = options.work.resolve()
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONHASHSEED": "0"}
        self.text: Text = write_text(options.text, int(options.megabytes * 1e6), self.work / "text")
        self.tokenizer = (
            options.tokenizer.resolve()
            if options.tokenizer
            else train_tokenizer(self.text, options.vocabulary, options.cores, self.work / "tokenizer")
        )
        self.failures: dict[str, str] = {}

    def run(self, command: list[str], log: str, **environment: str) -> Outcome:
        return run(command, self.work / "logs" / log, self.cores, {**self.environment, **environment})

    def log(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def in_turn(self, names: list[str], measure: Callable[[str, int], dict[str, Any] | None]) -> dict[str, list[Any]]:
        """Every contestant once a round, each round starting with another one; one that failed is out."""
        found: dict[str, list[Any]] = {name: [] for name in names}
        for index in range(self.options.rounds):
            shift = index % len(names)
            for name in names[shift:] + names[:shift]:
                if name not in self.failures:
                    value = measure(name, index)
                    if value is not None:
                        found[name].append(value)
        return found

    def fail(self, name: str, outcome: Outcome) -> None:
        self.failures[name] = outcome.failure
        self.log(f"{name}: failed: {outcome.failure}")

    def write_spec(self, label: str, **values: object) -> Path:
        path = self.work / "specs" / f"{label}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values, default=str))
        return path

    # --- build ---

    def our_build(self, out: Path, **settings: object) -> Outcome:
        config = {
            "out": str(out),
            "sources": [{"kind": "jsonl", "paths": [str(path) for path in self.text.files]}],
            "tokenizer": {"path": str(self.tokenizer)},
            "held_out": 0,
            "workers": self.options.cores,
            "engine": "processes",
            **settings,
        }
        outcome = self.run(build_command(config, self.work / "specs" / out.name), f"{out.name}.log")
        if not outcome.failure:
            counts = json.loads((out / "manifest.json").read_text())["counts"]
            outcome.result = {key: counts[key] for key in ("documents", "tokens", "duplicates")}
        return outcome

    def build_once(self, name: str, index: int) -> dict[str, Any] | None:
        label = f"build-{name}-{index}"
        out = self.work / label
        if name == OURS:
            outcome = self.our_build(out, task_bytes=TASK_BYTES)
            start_up = self.run([sys.executable, "-c", "import data_pipeline.build.build"], "start-up.log").seconds
            without = outcome.seconds - start_up
        else:
            spec = self.write_spec(
                label,
                files=[str(path) for path in self.text.files],
                tokenizer=self.tokenizer,
                out=out,
                workers=self.options.cores,
                clean=self.options.clean_peers,
            )
            # Processes share the cores already; threads of the tokenizer inside each would only get in their way.
            outcome = self.run(
                script("peers.build_contestants", "build", name, spec), f"{label}.log", TOKENIZERS_PARALLELISM="false"
            )
            if not outcome.failure:
                without = outcome.result["without_imports"]
                counted = self.run(script("peers.build_contestants", "count", name, spec), f"{label}-count.log")
                outcome.result, outcome.failure = counted.result, counted.failure
        shutil.rmtree(out, ignore_errors=True)
        if outcome.failure:
            self.fail(name, outcome)
            return None
        self.log(f"build, round {index + 1}: {name} {self.text.bytes / outcome.seconds / 1e6:.2f} MB/s")
        return {"seconds": outcome.seconds, "without_start_up": without, **outcome.result}

    def build(self) -> dict[str, Any]:
        names = [OURS, *BUILD_PEERS]
        rounds = self.in_turn(names, self.build_once)
        figures: dict[str, Any] = {}
        rows = []
        for name in names:
            if name in self.failures or not rounds[name]:
                figures[name] = {"failed": self.failures.get(name, "not measured")}
                rows.append([name, "failed", "", "", "", ""])
                continue
            rate = spread([self.text.bytes / item["seconds"] / 1e6 for item in rounds[name]])
            inner = spread([self.text.bytes / item["without_start_up"] / 1e6 for item in rounds[name]])
            last = rounds[name][-1]
            figures[name] = {
                "mb_per_second": rate,
                "mb_per_second_without_start_up": inner,
                "rounds": rounds[name],
                **last,
            }
        for name in names:
            if "failed" in figures[name]:
                continue
            rate = figures[name]["mb_per_second"]
            ratio = figures[OURS]["mb_per_second"]["median"] / rate["median"] if OURS not in self.failures else 0.0
            figures[name]["ours_is_times"] = ratio
            rows.append(
                [
                    name,
                    f"{rate['median']:.2f}",
                    f"{rate['least']:.2f} to {rate['most']:.2f}",
                    f"{figures[name]['mb_per_second_without_start_up']['median']:.2f}",
                    f"{figures[name]['documents']:,}",
                    f"{figures[name]['tokens']:,}",
                    "" if name == OURS else f"{ratio:.1f}",
                ]
            )
        rows = [row + [""] * (7 - len(row)) for row in rows]
        headings = ["build", "MB/s", "spread", "without start-up", "documents", "tokens", "ours is times"]
        print(f"\n{table(headings, rows)}\n")
        duplicates = figures[OURS].get("duplicates")
        if duplicates:
            print(f"{OURS} dropped {duplicates:,} documents that came twice; the others keep them.")
        if "ours_is_times" in figures["datasets"] and OURS not in self.failures:
            print_result("build against datasets.map", figures["datasets"]["ours_is_times"], BUILD_TARGET)
        return figures

    # --- loader ---

    def samples(self, store: Path) -> Path:
        """All tokens of the store as rows of LENGTH: what the peers are given."""
        import pyarrow.ipc as ipc

        manifest = json.loads((store / "manifest.json").read_text())
        parts = []
        for shard in manifest["shards"]:
            column = ipc.open_file(str(store / shard["name"])).get_batch(0).column("ids")
            parts.append(column.values.to_numpy())
        flat = np.concatenate(parts).astype(np.uint16)
        rows = flat[: len(flat) // LENGTH * LENGTH].reshape(-1, LENGTH)
        path = self.work / "samples.npy"
        np.save(path, rows)
        self.expected = {"samples": len(rows), "sum": int(rows.sum(dtype=np.int64))}
        return path

    def spec(self, name: str, label: str, workers: int, seconds: float, epochs: int) -> Path:
        folder = name.replace(" ", "-").replace(",", "")
        return self.write_spec(
            f"{label}-{folder}",
            store=self.store,
            samples=self.work / "samples.npy",
            remote=self.work / "remote" / folder,
            cache=self.work / "cache" / folder,
            length=LENGTH,
            batch=BATCH,
            workers=workers,
            seconds=seconds,
            epochs=epochs,
            seed=1,
            shard_bytes=16_000_000,
            noise=name == WITH_NOISE,
        )

    def load(self, name: str, label: str, workers: int, seconds: float = 0, epochs: int = 2) -> Outcome:
        """A fresh process on an empty cache; later epochs find it full."""
        spec = self.spec(name, label, workers, seconds, epochs)
        shutil.rmtree(json.loads(spec.read_text())["cache"], ignore_errors=True)
        self.dropped = drop_page_cache()
        return self.run(script("peers.loader_contestants", "run", name, spec), f"{spec.stem}.log")

    def tune(self, name: str) -> int | None:
        """The number of workers with the best steady rate from a warm cache; also prepares a peer's store."""
        if name in LOADER_PEERS:
            prepared = self.run(
                script("peers.loader_contestants", "prepare", name, self.spec(name, "prepare", 0, 0, 0)),
                f"prepare-{name}.log",
            )
            if prepared.failure:
                self.fail(name, prepared)
                return None
        rates: dict[int, float] = {}
        outcome = Outcome(0)
        for workers in WORKERS_TRIED:
            outcome = self.load(name, f"tune-{workers}", workers, seconds=3)
            if outcome.failure:
                self.log(f"{name} with {workers} workers: {outcome.failure}")
            else:
                rates[workers] = outcome.result["epochs"][1]["steady"]
        if not rates:
            self.fail(name, outcome)
            return None
        self.tried[name] = rates
        best = max(rates, key=lambda workers: rates[workers])
        by_workers = ", ".join(f"{workers}: {rate:,.0f}" for workers, rate in rates.items())
        self.log(f"{name}: samples/s by workers {by_workers}; {best} workers are used")
        return best

    def load_once(self, name: str, index: int) -> dict[str, Any] | None:
        outcome = self.load(name, f"round-{index}", self.workers[name])
        if outcome.failure:
            self.fail(name, outcome)
            return None
        cold, warm = outcome.result["epochs"]
        rates = {
            "cold": cold["samples"] / cold["seconds"],
            "warm": warm["samples"] / warm["seconds"],
            "first": cold["first"],
            "steady": warm["steady"],
        }
        self.log(f"loader, round {index + 1}: {name} cold {rates['cold']:,.0f}, warm {rates['warm']:,.0f} samples/s")
        return {**rates, "epochs": outcome.result["epochs"]}

    def loader(self) -> dict[str, Any]:
        self.store = self.work / "store"
        built = self.our_build(self.store)
        if built.failure:
            sys.exit(f"no store to read from: {built.failure}")
        self.samples(self.store)
        self.failures = {}
        self.tried: dict[str, dict[int, float]] = {}
        names = [OURS, WITH_NOISE, *LOADER_PEERS]
        self.workers = {name: best for name in names if (best := self.tune(name)) is not None}
        rounds = self.in_turn(names, self.load_once)
        figures: dict[str, Any] = {"page_cache_dropped": self.dropped, "expected": self.expected}
        for name in names:
            if name in self.failures or not rounds[name]:
                figures[name] = {"failed": self.failures.get(name, "not measured")}
                continue
            figures[name] = {
                key: spread([item[key] for item in rounds[name]]) for key in ("cold", "warm", "first", "steady")
            }
            figures[name] |= {"workers": self.workers[name], "workers_tried": self.tried[name], "rounds": rounds[name]}
            epochs = [epoch for item in rounds[name] for epoch in item["epochs"]]
            figures[name]["samples"] = epochs[-1]["samples"]
            figures[name]["complete"] = all(
                (epoch["samples"], epoch["sum"]) == (self.expected["samples"], self.expected["sum"]) for epoch in epochs
            )
        self.print_loader(names, figures)
        return figures

    def print_loader(self, names: list[str], figures: dict[str, Any]) -> None:
        rows = []
        for name in names:
            figure = figures[name]
            if "failed" in figure:
                rows.append([name, "failed", *[""] * 6])
                continue
            cold, warm = figure["cold"], figure["warm"]
            rows.append(
                [
                    name,
                    str(figure["workers"]),
                    f"{cold['median']:,.0f}",
                    f"{cold['least']:,.0f} to {cold['most']:,.0f}",
                    f"{warm['median']:,.0f}",
                    f"{warm['least']:,.0f} to {warm['most']:,.0f}",
                    f"{figure['first']['median']:.2f}",
                    f"{figure['samples']:,}"
                    + ("" if name in (OURS, WITH_NOISE) or figure["complete"] else " (not all once)"),
                ]
            )
        headings = [
            "loader",
            "workers",
            "cold samples/s",
            "spread",
            "warm samples/s",
            "spread",
            "first batch s",
            "samples",
        ]
        print(f"\n{table(headings, rows)}\n")
        if not figures["page_cache_dropped"]:
            print("The kernel's page cache could not be dropped here: cold means an empty local cache only.")
        peers = [name for name in LOADER_PEERS if "failed" not in figures[name]]
        for ours in (OURS, WITH_NOISE):
            if "failed" in figures[ours]:
                continue
            for kind in ("cold", "warm") if peers else ():
                best = max(peers, key=lambda name: figures[name][kind]["median"])
                ratio = figures[ours][kind]["median"] / figures[best][kind]["median"]
                figures[ours][f"times_best_{kind}"] = ratio
                print_result(f"{ours}, {kind}, against the best, {best}", ratio, LOADER_TARGET)
            tokens = figures[ours]["cold"]["median"] * LENGTH
            figures[ours]["times_consumption"] = tokens / self.options.consumption
            print_result(
                f"{ours}, cold, {tokens:,.0f} tokens/s against training's {self.options.consumption:,.0f}",
                figures[ours]["times_consumption"],
                CONSUMPTION_TARGET,
            )


def print_result(what: str, ratio: float, target: float) -> None:
    print(f"{what}: {ratio:.1f} times; target {target:g}: {'met' if ratio >= target else 'MISSED'}")


def main() -> None:
    options = arguments()
    missing = [name for name in ("datasets", "datatrove", "litdata", "streaming") if not importlib.util.find_spec(name)]
    bench = Bench(options)
    packages = ("datasets", "datatrove", "litdata", "mosaicml-streaming", "tokenizers", "nanotoken", "torch", "pyarrow")
    figures: dict[str, Any] = {
        "machine": machine(),
        "versions": {name: version(name) for name in packages},
        "settings": {
            "megabytes": bench.text.bytes / 1e6,
            "documents": bench.text.documents,
            "cores": bench.cores,
            "rounds": options.rounds,
            "sequence_length": LENGTH,
            "batch": BATCH,
            "clean_peers": options.clean_peers,
            "consumption": options.consumption,
        },
    }
    print(
        f"{figures['machine']['date']}, {figures['machine']['cpu']}, cores {bench.cores}, "
        f"{bench.text.bytes / 1e6:.1f} MB of text in {bench.text.documents:,} documents, {options.rounds} rounds"
    )
    if missing:
        print(f"not installed: {', '.join(missing)}; `make bench` installs the peers")
    failures = {}
    if options.only != "loader":
        figures["build"] = bench.build()
        failures.update({f"build: {name}": reason for name, reason in bench.failures.items()})
    if options.only != "build":
        figures["loader"] = bench.loader()
        failures.update({f"loader: {name}": reason for name, reason in bench.failures.items()})
    for name, reason in failures.items():
        print(f"{name} failed: {reason}")
    figures["failures"] = failures
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1, default=str) + "\n")
    print(f"every figure: {options.out}")


if __name__ == "__main__":
    main()
