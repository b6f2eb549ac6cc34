"""How efficient a run on many GPUs is to be expected: on paper, by arithmetic from a stated device and network.

python -m benchmarks.scaling --gpu h200 --mfu 0.3 --out runs/bench/scaling.json
python -m benchmarks.scaling --check

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import table, write_figures
from data_pipeline.errors import UserError
from electra_scale.model.cost import parameter_counts, training_flops
from electra_scale.monitor.hardware import DEVICES
from electra_scale.recipe.batch import batch_split
from electra_scale.recipe.deepspeed_json import LARGEST_BUCKET, read_deepspeed_json
from electra_scale.recipe.parse import parse_recipe, recipe_parser

RANKS = tuple(2**power for power in range(11))

SMALL_COLLECTIVES = 4
"""All-reduces of a step that carry next to nothing: counts with votes, statistics, the norm, the sampling head."""

_BACKWARD = 2 / 3
"""Share of the computing in which gradients appear, and an exchange can run beside it."""


@dataclass(frozen=True)
class Network:
    """What moves between ranks: ``latency`` seconds a hop, bytes a second from a device in one direction.

    Up to ``per_node`` ranks share a node and its ``inside``. Between nodes each device has ``across``, and all devices
    of a node carry a collective together, as rings do that leave a node by each of its adapters: the rate of a whole
    node, ``per_node * across``, at most ``inside``. ``overlap`` is the share of the backward pass that an exchange of
    gradients can hide behind: 0 without ``overlap_comm``.
    """

    latency: float
    inside: float
    across: float
    per_node: int
    overlap: float = 0.0

    def bandwidth(self, ranks: int) -> float:
        return self.inside if ranks <= self.per_node else min(self.inside, self.per_node * self.across)

    def all_reduce(self, size: float, ranks: int) -> float:
        """Seconds of an all-reduce of ``size`` bytes: up and down a tree, each byte sent ``2 (R - 1) / R`` times."""
        if ranks == 1:
            return 0.0
        sent = 2 * size * (ranks - 1) / ranks
        return 2 * math.ceil(math.log2(ranks)) * self.latency + sent / self.bandwidth(ranks)

    def all_gather(self, size: float, ranks: int) -> float:
        """Seconds until each rank has all ``size`` bytes, of which each held its part: around a ring."""
        if ranks == 1:
            return 0.0
        return (ranks - 1) * self.latency + size * (ranks - 1) / ranks / self.bandwidth(ranks)


@dataclass(frozen=True)
class Work:
    """A model on one device: ``row_seconds`` for each row, and ``fixed_seconds`` for each micro-batch.

    ``parameters`` are exchanged with ``element`` bytes each, in buckets of ``bucket`` numbers; ``stage`` of ZeRO.
    """

    row_seconds: float
    parameters: int
    element: int
    stage: int = 2
    bucket: int = LARGEST_BUCKET
    fixed_seconds: float = 0.0

    def computing(self, micro: int, accumulation: int) -> float:
        """Seconds of a step without any exchange."""
        return accumulation * (micro * self.row_seconds + self.fixed_seconds)


@dataclass(frozen=True)
class Step:
    """A step of ``ranks``: seconds of computing, of exchanging, and how much of the latter nothing hides."""

    ranks: int
    micro: int
    accumulation: int
    computing: float
    exchange: float
    exposed: float
    efficiency: float

    @property
    def seconds(self) -> float:
        return self.computing + self.exposed


def bytes_of_a_step(work: Work, accumulation: int) -> dict[str, float]:
    """Bytes that are reduced and gathered in a step.

    DeepSpeed's ZeRO-2 reduces all gradients after each micro-batch, by an all-reduce of which each rank keeps its part;
    ZeRO-1 once. Both gather the parameters once.
    """
    once = float(work.parameters * work.element)
    return {"reduced": once * (accumulation if work.stage == 2 else 1), "gathered": once}


def step_of(work: Work, network: Network, ranks: int, micro: int, accumulation: int) -> Step:
    """The step of each of ``ranks`` with ``accumulation`` micro-batches of ``micro`` rows.

    Efficiency is the time that one device would take for the rows of a rank, without any exchange, over this.
    """
    computing = work.computing(micro, accumulation)
    moved = bytes_of_a_step(work, accumulation)
    buckets = math.ceil(work.parameters / work.bucket)
    rounds = accumulation if work.stage == 2 else 1
    bucket = moved["reduced"] / rounds / buckets
    reducing = rounds * buckets * network.all_reduce(bucket, ranks)
    gathering = network.all_gather(moved["gathered"], ranks)
    small = SMALL_COLLECTIVES * network.all_reduce(8.0, ranks)
    # An exchange can hide behind the backward passes that it belongs to only: one of ZeRO-1 behind the last.
    beside = _BACKWARD * computing * (1.0 if work.stage == 2 else 1 / accumulation)
    hidden = min(reducing, network.overlap * beside)
    exposed = reducing - hidden + gathering + small
    return Step(
        ranks,
        micro,
        accumulation,
        computing,
        reducing + gathering + small,
        exposed,
        computing / (computing + exposed),
    )


def scaled(work: Work, network: Network, global_batch: int, most: int) -> list[tuple[int, Step | None, Step]]:
    """For each number of ranks: the step of the recipe's global batch, None where they cannot share it, and the step in
    which each rank has the most rows that a device takes, so that the batch grows with the ranks."""
    alone = work.computing(*_split(global_batch, 1, most))
    found: list[tuple[int, Step | None, Step]] = []
    for ranks in RANKS:
        try:
            step = step_of(work, network, ranks, *_split(global_batch, ranks, most))
            # Of the whole batch on one device: fewer rows a micro-batch cost the fixed part more often.
            shared = Step(**(asdict(step) | {"efficiency": alone / ranks / step.seconds}))
        except UserError:
            shared = None
        found.append((ranks, shared, step_of(work, network, ranks, most, 1)))
    return found


def _split(global_batch: int, ranks: int, most: int) -> tuple[int, int]:
    return batch_split(global_batch, ranks, most)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Expected efficiency on 1 to 1,024 GPUs, on paper.")
    parser.add_argument("--recipes", nargs="+", default=["small", "base", "large"], help="recipes (small base large)")
    parser.add_argument("--vocabulary", type=int, default=30522, help="tokens V (30522)")
    parser.add_argument("--gpu", default="h200", choices=list(DEVICES), help="device, for its nominal peak (h200)")
    parser.add_argument("--peak-tflops", type=float, help="another peak than the data sheet's")
    parser.add_argument("--mfu", type=float, default=0.3, help="share of the peak that computing reaches (0.3)")
    parser.add_argument("--row-ms", type=float, help="a row's measured time on one device, instead of peak and share")
    parser.add_argument("--fixed-ms", type=float, default=0.0, help="a micro-batch's time whatever its rows (0)")
    parser.add_argument("--per-node", type=int, default=8, help="devices of a node (8)")
    parser.add_argument("--inside-gbs", type=float, help="GB/s inside a node (the data sheet's)")
    parser.add_argument("--across-gbs", type=float, default=25.0, help="GB/s a device across nodes (25)")
    parser.add_argument("--latency-us", type=float, default=10.0, help="microseconds a hop (10)")
    parser.add_argument("--overlap", type=float, help="share of backward passes behind which gradients travel; unset: "
                        "0 where the DeepSpeed JSON has no overlap_comm, else 0.8")  # fmt: skip
    parser.add_argument("--deepspeed", help="another DeepSpeed JSON than the recipes'")
    parser.add_argument(
        "--check", action="store_true", help="measure 1, 2 and 4 ranks here, beside the model's figures"
    )
    parser.add_argument("--check-recipe", default="tiny", help="recipe whose sizes --check runs (tiny)")
    parser.add_argument("--check-rows", type=int, default=8, help="rows of a rank in --check (8)")
    parser.add_argument("--check-steps", type=int, default=10, help="timed steps in --check (10)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/scaling.json"), help="JSON with every figure")
    args = parser.parse_args()
    for name in ("mfu", "peak_tflops", "row_ms", "inside_gbs", "across_gbs", "latency_us", "per_node", "vocabulary"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            parser.error(f"--{name.replace('_', '-')} is {value}; it must be above 0")
    if args.overlap is not None and not 0 <= args.overlap <= 1:
        parser.error(f"--overlap is {args.overlap}; it must be from 0 to 1")
    if not 0 <= args.fixed_ms < math.inf:
        parser.error(f"--fixed-ms is {args.fixed_ms}; it must be 0 or more")
    return args


def on_paper(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """The figures of one recipe, and its table printed."""
    recipe, _ = parse_recipe(recipe_parser("scaling"), ["--config", name])
    content = read_deepspeed_json(args.deepspeed or recipe.deepspeed)
    config, length = recipe.networks(args.vocabulary), recipe.data.sequence_length
    element = 2 if content.get("bf16", {}).get("enabled") else 4
    sheet = DEVICES[args.gpu]
    peak = 1e12 * (args.peak_tflops or (sheet.bf16_tflops if element == 2 else sheet.fp32_tflops))
    flops = length * training_flops(config, length, recipe.data.mask_share, True)
    zero = content["zero_optimization"]
    counted = parameter_counts(config).total
    bucket = zero.get("reduce_bucket_size", LARGEST_BUCKET)
    work = Work(
        args.row_ms / 1000 if args.row_ms else flops / (peak * args.mfu),
        counted,
        element,
        zero["stage"],
        min(counted, LARGEST_BUCKET) if bucket == "auto" else int(bucket),
        args.fixed_ms / 1000,
    )
    overlap = args.overlap if args.overlap is not None else (0.8 if zero.get("overlap_comm") else 0.0)
    inside = 1e9 * (args.inside_gbs or sheet.link_gbs)
    network = Network(args.latency_us * 1e-6, inside, 1e9 * args.across_gbs, args.per_node, overlap)
    most = recipe.batch.most_per_device
    found = scaled(work, network, recipe.batch.global_batch, most)
    compute = f"{args.row_ms:g} ms a row, as given" if args.row_ms else f"{args.mfu:.0%} of {peak / 1e12:g} TFLOP/s"
    print(
        f"\n{name}: {counted / 1e6:,.1f} M parameters, {flops / 1e9:,.1f} GFLOP a row of {length}; computing {compute} "
        f"and {args.fixed_ms:g} ms a micro-batch; ZeRO-{work.stage}, {element} bytes a number; "
        f"{inside / 1e9:g} GB/s inside a node of {args.per_node}, {args.across_gbs:g} GB/s a device across nodes, "
        f"{args.latency_us:g} us a hop, overlap {overlap:g}"
    )
    rows = [[f"{ranks:,}", *_cells(shared), *_cells(full)] for ranks, shared, full in found]
    kinds = (f"batch of {recipe.batch.global_batch:,}", f"{most} rows each")
    print(table(["GPUs", *(title for kind in kinds for title in (f"{kind}: ms", "exposed", "efficiency"))], rows))
    return {
        "work": asdict(work),
        "network": asdict(network),
        "moved": {str(n): bytes_of_a_step(work, n) for n in {s.accumulation for _, s, _ in found if s}},
        "steps": [
            {"ranks": ranks, "global_batch": None if shared is None else asdict(shared), "full_devices": asdict(full)}
            for ranks, shared, full in found
        ],
    }


def _cells(step: Step | None) -> list[str]:
    if step is None:
        return ["-", "-", "-"]
    return [f"{1000 * step.seconds:,.1f}", f"{1000 * step.exposed:,.1f}", f"{step.efficiency:.0%}"]


def main() -> None:
    args = arguments()
    if args.check:
        from benchmarks.training.scaling_check import check

        write_figures(args, check=check(args.check_recipe, args.vocabulary, args.check_rows, args.check_steps))
        return
    print("On paper: by arithmetic from the assumptions below; no GPU was measured.")
    write_figures(args, on_paper={name: on_paper(args, name) for name in args.recipes})


if __name__ == "__main__":
    main()
