"""``electra-scale``: the commands around training. A command is imported when it runs, so that help is quick."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.command_line import run_command
from electra_scale.commands.submit import add_options as add_submit_options
from electra_scale.doctor.command import add_options as add_doctor_options
from electra_scale.evaluate.command import add_options as add_evaluate_options
from electra_scale.export.command import (
    add_average_options,
    add_export_options,
    add_push_options,
    run_average,
    run_export,
    run_push,
)
from electra_scale.finetune.command import add_options as add_finetune_options
from electra_scale.look.command import add_options as add_look_options
from electra_scale.report.command import add_options as add_report_options


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Exit code 2, with one line on stderr, for what the user can put right; 3 for an unfinished run, 1
    for a cluster that is not healthy, 130 for Ctrl-C."""
    return run_command("electra-scale", lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # What a command that takes a recipe does not know is an option of the recipe, whose parser checks it.
    if rest and not options.takes_recipe:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    code: int = options.run(options, rest) if options.takes_recipe else options.run(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="electra-scale", description="Pre-training of ELECTRA encoders at scale.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[..., int], text: str, takes_recipe: bool = False, **settings: Any
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=not takes_recipe, **settings)
        added.set_defaults(run=run, takes_recipe=takes_recipe)
        return added

    demo = command("demo", _demo, "the main job on real text: corpus, store, training, export")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for everything that it makes")
    demo.add_argument("--corpus", type=Path, help="own text: a file or a folder of .txt, .jsonl or .parquet")
    demo.add_argument("--recipe", default="tiny", help="recipe: a file, or a shipped one's name (default tiny)")
    demo.add_argument("--ranks", type=int, default=2, help="ZeRO-2 ranks (default 2)")

    plan = command(
        "plan",
        _plan,
        "parameters, memory, traffic, time and cost of a run, by arithmetic",
        takes_recipe=True,
        epilog="Takes a recipe as training does: --config RECIPE, several times, and --section.key value.",
    )
    plan.add_argument("--nodes", type=int, default=1, help="machines (default 1)")
    plan.add_argument("--gpus-per-node", type=int, default=8, help="devices of a machine (default 8)")
    plan.add_argument("--gpu", default="h100", help="kind of device: a100-40, a100-80, h100, h200, l4 (default h100)")
    plan.add_argument("--link", type=float, help="GB/s from a device to another rank, one direction")
    plan.add_argument("--store", help="store whose manifest gives vocabulary and bytes per token id")
    plan.add_argument("--vocabulary", type=int, default=30522, help="without --store (default 30522)")
    plan.add_argument("--price", type=float, help="price of a device hour, for the cost of the run")
    plan.add_argument("--efficiency", type=float, default=0.2, help="assumed share of the peak (default 0.2)")
    plan.add_argument("--json", nargs="?", type=Path, const=Path("-"), help="as JSON, into a file if one is named")

    add_doctor_options(
        command(
            "doctor",
            _doctor,
            "health of one node, of an srun's nodes or of a hostfile's: exit code 0 if a run can start there",
            takes_recipe=True,
        )
    )
    add_submit_options(
        command(
            "submit",
            _submit,
            "submit slurm/pretrain.sh, or data, training and export as a chain",
            takes_recipe=True,
        )
    )

    hosts = command("hostfile", _hostfile, "print a hostfile for the deepspeed launcher, in a job of SLURM")
    hosts.add_argument("--slots", type=int, help="ranks on each node; the job's tasks there if not given")

    status = command(
        "status", _status, "state of a run, in one line; exit code 0 if it is finished, 3 if not, 2 on an error"
    )
    status.add_argument("run_folder", type=Path, metavar="run", help="run folder")

    add_export_options(command("export", run_export, "write a run's checkpoint as Hugging Face checkpoints"))
    add_average_options(command("average", run_average, "write the average of a run's newest checkpoints"))
    add_push_options(command("push", run_push, "upload a model's folder to the Hugging Face hub"))

    trial = command("try", _try, "let exported networks fill a [MASK] and find a wrong word")
    trial.add_argument("export", type=Path, help="folder that export wrote")
    trial.add_argument("--masked", help="sentence with one [MASK] for the generator; an example if not given")
    trial.add_argument("--wrong", help="sentence with a wrong word for the discriminator; an example if not given")

    add_look_options(command("look", _look, "a page on this machine: what a checkpoint does with a text that you type"))

    probe = command("probe", _probe, "how much a checkpoint's loss and gradient vary with the draw alone")
    probe.add_argument(
        "run_folder", type=Path, metavar="run", help="run folder; the figures go to its probe/step-NNNNNNNN.json too"
    )
    probe.add_argument("--step", type=int, help="checkpoint to probe; the newest if not given")
    probe.add_argument("--samples", type=int, help="held-out samples (default 256, with --oracle 64)")
    probe.add_argument("--draws", type=int, help="draws of each from p and from q (default 64, with --masks 8)")
    kind = probe.add_mutually_exclusive_group()
    kind.add_argument(
        "--masks",
        type=int,
        metavar="M",
        help="split the variance of L_D into that over text, over masks (M of each sample) and over draws (of each "
        "mask); the figures go to probe/parts-NNNNNNNN.json",
    )
    kind.add_argument(
        "--oracle",
        type=int,
        metavar="K",
        help="try the K likeliest tokens of each masked position, and compare draws from p and from the run's q with "
        "draws that know their true losses: variance of the loss and of the gradient of all parameters; the figures go "
        "to probe/oracle-NNNNNNNN.json, row by row, and the same command resumes there",
    )
    probe.add_argument("--store", help="store to read; the one that the run was trained on if not given")

    add_evaluate_options(command("evaluate", _evaluate, "what models know, without fine-tuning: probes side by side"))
    add_finetune_options(
        command("finetune", _finetune, "tune encoders on labelled tasks, score them over seeds, keep the best model")
    )
    add_report_options(
        command("report", _report, "one page of a run, or of several side by side: plots, draws, scores")
    )
    return parser


def _demo(options: argparse.Namespace) -> int:
    from electra_scale.commands.demo import run_demo

    run_demo(options.out, options.corpus, options.recipe, options.ranks)
    return 0


def _plan(options: argparse.Namespace, recipe: list[str]) -> int:
    from electra_scale.plan.command import print_plan

    print_plan(options, recipe)
    return 0


def _doctor(options: argparse.Namespace, recipe: list[str]) -> int:
    from electra_scale.doctor.command import run_doctor

    return run_doctor(options, recipe)


def _submit(options: argparse.Namespace, recipe: list[str]) -> int:
    from electra_scale.commands.submit import run_submit

    run_submit(options, recipe)
    return 0


def _hostfile(options: argparse.Namespace) -> int:
    from electra_scale.cluster.hostfile import hostfile_of_job

    print(hostfile_of_job(os.environ, options.slots), end="")
    return 0


def _status(options: argparse.Namespace) -> int:
    from electra_scale.train.lifecycle.status import read_status

    status = read_status(options.run_folder)
    print(f"{options.run_folder}: {status.line()}")
    return 0 if status.finished else 3


def _try(options: argparse.Namespace) -> int:
    from electra_scale.commands.showcase import show

    show(options.export, options.masked, options.wrong)
    return 0


def _look(options: argparse.Namespace) -> int:
    from electra_scale.look.command import run_look

    return run_look(options)


def _probe(options: argparse.Namespace) -> int:
    from electra_scale.commands.oracle import compare_with_oracle
    from electra_scale.commands.probe import probe_run
    from electra_scale.commands.variance_parts import split_variance

    where = options.run_folder, options.step
    samples = (256 if options.oracle is None else 64) if options.samples is None else options.samples
    draws = (64 if options.masks is None else 8) if options.draws is None else options.draws
    if options.oracle is not None:
        compare_with_oracle(*where, options.oracle, samples, draws, options.store)
    elif options.masks is not None:
        split_variance(*where, options.masks, samples, draws, options.store)
    else:
        probe_run(*where, samples, draws, options.store)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from electra_scale.evaluate.command import run_evaluate

    return run_evaluate(options)


def _finetune(options: argparse.Namespace) -> int:
    from electra_scale.finetune.command import run_finetune

    return run_finetune(options)


def _report(options: argparse.Namespace) -> int:
    from electra_scale.report.command import run_report

    return run_report(options)


if __name__ == "__main__":
    sys.exit(main())
