"""``electra-scale doctor``: alone, as a task of ``srun``, or over the hosts of a hostfile."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes

if TYPE_CHECKING:
    from electra_scale.doctor.examine import Checks


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes; everything else on its line is options of the training."""
    parser.add_argument("--hostfile", type=Path, help="start on every host of this file, over ssh, as deepspeed does")
    parser.add_argument("--ssh_port", type=int, help="with --hostfile: where ssh listens")
    parser.add_argument("--master_addr", help="with --hostfile: address of the first host, if not its name there")
    parser.add_argument("--master_port", type=int, default=29500, help="with --hostfile: port on it (default 29500)")
    parser.add_argument("--store", help="store to read; data.store of the training's options if not given")
    parser.add_argument("--run_dir", help="run folder; that of the training's options, else the current one")
    parser.add_argument("--short", action="store_true", help="prove that everything works, measure no rates")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds that each stage may take (default 60)")
    parser.add_argument("--json", type=Path, help="file to write all figures to")


def run_doctor(options: argparse.Namespace, training: list[str]) -> int:
    """Examine and print. 0 healthy, 1 something is wrong, 2 something is that would be wrong on any nodes.

    Raises UserError for options that are wrong.
    """
    if not options.wait > 0:
        raise UserError(f"doctor: --wait is {options.wait:g}; give seconds, above 0")
    # Else torch tells of each attempt to connect, in the format of its C++.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Imported late: other commands read this module for its options, and torch takes long to import.
    from electra_scale.doctor.examine import examine
    from electra_scale.doctor.meeting import Apart
    from electra_scale.doctor.over_ssh import examine_hosts
    from electra_scale.doctor.seat import take_seat

    checks = _checks(options, training)
    if options.hostfile is not None:
        findings, stuck = examine_hosts(options, checks), False
    else:
        try:
            found, stuck = examine(take_seat(os.environ), checks)
        except Apart as error:
            print(f"electra-scale: {error}", file=sys.stderr)
            return _ended(1, True)
        if found is None:
            return _ended(0, stuck)
        findings = found
    from electra_scale.doctor.table import verdict_line
    from electra_scale.doctor.verdict import exit_code

    for line in findings.lines:
        print(line)
    for problem in findings.problems:
        print(problem.line())
    print(verdict_line(findings.problems, findings.nodes), flush=True)
    if options.json is not None:
        write_bytes(options.json, json.dumps(findings.details, indent=1).encode() + b"\n")
    return _ended(exit_code(findings.problems), stuck)


def _ended(code: int, stuck: bool) -> int:
    """The exit code; python would wait for a thread that hangs."""
    if stuck:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _checks(options: argparse.Namespace, training: list[str]) -> Checks:
    from electra_scale.doctor.examine import Checks

    run_dir, store, cache = options.run_dir or ".", options.store, None
    if training:
        from data_pipeline.places.names import is_object_store
        from electra_scale.data.store import cache_folder
        from electra_scale.recipe.parse import parse_recipe
        from electra_scale.recipe.start_options import pretrain_parser

        recipe, _ = parse_recipe(pretrain_parser(), training)
        run_dir, store = options.run_dir or recipe.run_dir, store or recipe.data.store
        if is_object_store(store) or recipe.data.cache.folder is not None:
            cache = str(cache_folder(recipe.data.cache))
    return Checks(run_dir, store, cache, options.short, options.wait)
