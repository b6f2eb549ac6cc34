"""``electra-scale``: what a user does around training."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from data_pipeline.errors import UserError
from electra_scale.cluster.hostfile import hostfile_of_job
from electra_scale.commands.showcase import DEFAULT_MASKED, DEFAULT_WRONG
from electra_scale.commands.submit import add_options
from electra_scale.doctor import command as doctor


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Exit code 2, with one line on stderr, for what the user can put right; 3 for an unfinished run, 1
    for a cluster that is not healthy."""
    parser = _parser()
    # What these do not know are options of a recipe, whose parser checks them.
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in ("submit", "doctor", "plan"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if options.command == "export":
            from electra_scale.commands.export import export_run

            step = export_run(options.run, options.out, options.step)
            print(f"exported step {step}: {options.out}/discriminator, {options.out}/generator")
        elif options.command == "try":
            from electra_scale.commands.showcase import show

            show(options.export, options.masked, options.wrong)
        elif options.command == "probe":
            from electra_scale.commands.probe import probe_run

            probe_run(options.run, options.step, options.samples, options.draws, options.store)
        elif options.command == "status":
            from electra_scale.train.lifecycle.status import read_status

            status = read_status(options.run)
            print(f"{options.run}: {status.line()}")
            return 0 if status.finished else 3
        elif options.command == "demo":
            from electra_scale.commands.demo import run_demo

            run_demo(options.out, options.corpus, options.recipe, options.ranks)
        elif options.command == "submit":
            from electra_scale.commands.submit import jobs_of, preview, submit

            jobs = jobs_of(options, rest)
            if options.dry_run:
                print(preview(jobs), end="")
            else:
                submit(jobs)
        elif options.command == "doctor":
            return doctor.run_doctor(options, rest)
        elif options.command == "hostfile":
            print(hostfile_of_job(os.environ, options.slots), end="")
        elif options.command == "plan":
            from electra_scale.plan.command import print_plan

            print_plan(options, rest)
    except UserError as error:
        print(f"electra-scale: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="electra-scale", description="Pre-training of ELECTRA encoders at scale.")
    commands = parser.add_subparsers(dest="command", required=True)

    export = commands.add_parser("export", help="write a run's checkpoint as Hugging Face checkpoints")
    export.add_argument("run", type=Path, help="run folder")
    export.add_argument(
        "out", help="folder to make, or s3://bucket/prefix; holds discriminator/ and generator/ afterwards"
    )
    export.add_argument("--step", type=int, help="checkpoint to export; the newest if not given")

    trial = commands.add_parser("try", help="let exported networks fill a [MASK] and find a wrong word")
    trial.add_argument("export", type=Path, help="folder that export wrote")
    trial.add_argument("--masked", default=DEFAULT_MASKED, help="sentence with one [MASK] for the generator")
    trial.add_argument("--wrong", default=DEFAULT_WRONG, help="sentence with a wrong word for the discriminator")

    probe = commands.add_parser("probe", help="how much a checkpoint's loss and gradient vary with the draw alone")
    probe.add_argument("run", type=Path, help="run folder; the figures go to its probe/step-NNNNNNNN.json too")
    probe.add_argument("--step", type=int, help="checkpoint to probe; the newest if not given")
    probe.add_argument("--samples", type=int, default=256, help="held-out samples (default 256)")
    probe.add_argument("--draws", type=int, default=64, help="draws of each from p and from q (default 64)")
    probe.add_argument("--store", help="store to read; the one that the run was trained on if not given")

    status = commands.add_parser(
        "status", help="how a run stands, in one line; exit code 0 if it is finished, 3 if not, 2 on an error"
    )
    status.add_argument("run", type=Path, help="run folder")

    demo = commands.add_parser("demo", help="the main job on real text: corpus, store, training, export")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for everything that it makes")
    demo.add_argument("--corpus", type=Path, help="own text: a file or a folder of .txt, .jsonl or .parquet")
    demo.add_argument("--recipe", type=Path, default=Path("recipes/tiny.yaml"), help="recipe to train")
    demo.add_argument("--ranks", type=int, default=2, help="ZeRO-2 ranks")

    submission = commands.add_parser(
        "submit", allow_abbrev=False, help="submit slurm/pretrain.sh, or data, training and export as a chain"
    )
    add_options(submission)

    examination = commands.add_parser(
        "doctor",
        allow_abbrev=False,
        help="health of one node, of an srun's nodes or of a hostfile's: exit code 0 if a run can start there",
    )
    doctor.add_options(examination)

    hosts = commands.add_parser("hostfile", help="print a hostfile for the deepspeed launcher, in a job of SLURM")
    hosts.add_argument("--slots", type=int, help="ranks on each node; the job's tasks there if not given")

    plan = commands.add_parser(
        "plan",
        allow_abbrev=False,
        help="parameters, memory, traffic, time and cost of a run, by arithmetic",
        epilog="Takes a recipe as training does: --config FILE, several times, and --section.key value.",
    )
    plan.add_argument("--nodes", type=int, default=1, help="machines (default 1)")
    plan.add_argument("--gpus-per-node", type=int, default=8, help="devices of a machine (default 8)")
    plan.add_argument("--gpu", default="h100", help="kind of device: a100-40, a100-80, h100, h200, l4 (default h100)")
    plan.add_argument("--link", type=float, help="GB/s from a device to another rank, one direction")
    plan.add_argument("--store", help="store whose manifest gives vocabulary and bytes per token id")
    plan.add_argument("--vocabulary", type=int, default=30522, help="without --store (default 30522)")
    plan.add_argument("--price", type=float, help="of a device hour, for a cost")
    plan.add_argument("--efficiency", type=float, default=0.2, help="assumed share of the peak (default 0.2)")
    plan.add_argument("--json", nargs="?", type=Path, const=Path("-"), help="as JSON, into a file if one is named")
    return parser


if __name__ == "__main__":
    sys.exit(main())
