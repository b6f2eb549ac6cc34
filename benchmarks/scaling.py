"""How efficient a run on many GPUs is to be expected: on paper, by arithmetic from a stated device and network.

python -m benchmarks.scaling --gpu h200 --mfu 0.3 --out runs/bench/scaling.json
python -m benchmarks.scaling --check

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import table, write_figures
from benchmarks.training.step_on_paper import Network, Step, Work, bytes_of_a_step, scaled
from electra_scale.model.cost import parameter_counts, training_flops
from electra_scale.monitor.hardware import DEVICES
from electra_scale.recipe.deepspeed_json import LARGEST_BUCKET, bucket_of, chosen_json, read_deepspeed_json
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.phases import phases, trained_parts


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
    content = read_deepspeed_json(chosen_json(args.deepspeed or recipe.deepspeed, bf16=True))
    config, length = recipe.networks(args.vocabulary), recipe.data.sequence_length
    element = 2 if content.get("bf16", {}).get("enabled") else 4
    sheet = DEVICES[args.gpu]
    peak = 1e12 * (args.peak_tflops or (sheet.bf16_tflops if element == 2 else sheet.fp32_tflops))
    phase = phases(recipe)[-1].name
    trained, with_generator = trained_parts(recipe, phase), recipe.corruption.uses_generator
    flops = length * training_flops(config, length, recipe.data.mask_share, phase == "joint", with_generator, trained)
    zero = content["zero_optimization"]
    counts = parameter_counts(config, with_generator)
    counted = counts.of(trained)
    bucket = zero.get("reduce_bucket_size", LARGEST_BUCKET)
    work = Work(
        args.row_ms / 1000 if args.row_ms else flops / (peak * args.mfu),
        counted,
        element,
        zero["stage"],
        bucket_of(counts.total) if bucket == "auto" else int(bucket),
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
