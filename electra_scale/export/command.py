"""``electra-scale export``, ``average`` and ``push``: what they take and what they print."""

from __future__ import annotations

import argparse
from pathlib import Path

_LICENCE = "the hub's identifier of the licence that the model card names, such as apache-2.0; none if not given"


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``electra-scale export``."""
    parser.add_argument("run_folder", type=Path, metavar="run", help="run folder")
    parser.add_argument(
        "out",
        help="folder to make, or s3://bucket/prefix; holds discriminator/ and generator/ afterwards, of a checkpoint "
        "of the generator's warm-up generator/ alone",
    )
    parser.add_argument("--step", type=int, help="checkpoint to export; the newest if not given")
    parser.add_argument("--license", dest="licence", help=_LICENCE)


def add_average_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``electra-scale average``."""
    parser.add_argument("run_folder", type=Path, metavar="run", help="run folder")
    parser.add_argument("--last", type=int, required=True, help="how many of the newest checkpoints")
    parser.add_argument("--out", type=Path, help="folder to make; RUN/average/step-NNNNNNNN-last-K if not given")
    parser.add_argument("--license", dest="licence", help=_LICENCE)


def add_push_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``electra-scale push``."""
    parser.add_argument("folder", type=Path, help="folder of one model, such as discriminator/ of an export")
    parser.add_argument("repository", help="OWNER/NAME on the hub; made, private, if it is not there")
    parser.add_argument("--public", action="store_true", help="for everybody to see")


def run_export(options: argparse.Namespace) -> int:
    """Export a run, and print where its networks are."""
    from electra_scale.export.run import export_run
    from electra_scale.recipe.parse import recipe_of_run

    step, networks = export_run(options.run_folder, options.out, options.step, options.licence)
    print(f"exported step {step}: {', '.join(f'{options.out}/{network}' for network in networks)}")
    if "discriminator" not in networks:
        if not recipe_of_run(options.run_folder / "recipe.yaml").task.detects:
            print("the run is a masked language model (task.kind mlm), which has no discriminator")
            return 0
        print(f"step {step} is of the generator's warm-up, in which no discriminator is trained, so there is none")
    return 0


def run_average(options: argparse.Namespace) -> int:
    """Average checkpoints of a run, and print which and where."""
    from electra_scale.export.average import average_run

    out, steps, networks = average_run(options.run_folder, options.last, options.out, options.licence)
    folders = ", ".join(str(out / network) for network in networks)
    print(f"averaged steps {', '.join(map(str, steps))}: {folders}")
    return 0


def run_push(options: argparse.Namespace) -> int:
    """Upload a model, and print its address."""
    from electra_scale.export.push import push

    print(push(options.folder, options.repository, options.public, print))
    return 0
