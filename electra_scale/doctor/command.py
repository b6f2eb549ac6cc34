"""The command ``electra-scale doctor``: on one machine, as the tasks of ``srun``, or over the hosts of a hostfile."""

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

_LONGEST_WAIT = 86_400
"""Seconds of a day, which every clock of the libraries below can measure."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes; everything else on its line is options of the training."""
    parser.add_argument("--hostfile", type=Path, help="start on every host of this file, over ssh, as deepspeed does")
    parser.add_argument("--ssh_port", type=int, help="with --hostfile: the port of ssh on the hosts")
    parser.add_argument("--master_addr", help="with --hostfile: address of the first host, if its name is not one")
    parser.add_argument("--master_port", type=int, default=29500, help="with --hostfile: port on it (default 29500)")
    parser.add_argument("--store", help="store to read (default: data.store of the training's options)")
    parser.add_argument("--run_dir", help="run folder (default: that of the training's options, or the current folder)")
    parser.add_argument("--short", action="store_true", help="check that everything works, but measure no rates")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds that each stage may take (default 60)")
    parser.add_argument("--json", type=Path, help="file to write all figures to")


def run_doctor(options: argparse.Namespace, training: list[str]) -> int:
    """Examine and print. Exit code 0: healthy; 1: a problem that other nodes may not have; 2: one on any nodes.

    Raises UserError for wrong options.
    """
    if not 0 < options.wait <= _LONGEST_WAIT:
        raise UserError(
            f"doctor: --wait is {options.wait:g}; give a number of seconds above 0, at most {_LONGEST_WAIT:,} (a day)"
        )
    # Otherwise torch logs each attempt to connect.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Imported late: other commands read this module for its options, and torch takes long to import.
    from electra_scale.doctor.examine import examine
    from electra_scale.doctor.over_ssh import examine_hosts
    from electra_scale.doctor.rendezvous import Unreachable, own_rank

    checks = _checks(options, training)
    if options.hostfile is not None:
        report, hangs = examine_hosts(options, checks), False
    else:
        try:
            own_report, hangs = examine(own_rank(os.environ), checks)
        except Unreachable as error:
            print(f"electra-scale: error: {error}", file=sys.stderr)
            return _exit(1, hangs=True)
        if own_report is None:
            return _exit(0, hangs)
        report = own_report
    from electra_scale.doctor.findings import exit_code
    from electra_scale.doctor.table import result_line

    for line in report.lines:
        print(line)
    for finding in report.findings:
        print(finding.line())
    print(result_line(report.findings, report.nodes), flush=True)
    if options.json is not None:
        write_bytes(options.json, json.dumps(report.details, indent=1).encode() + b"\n")
    return _exit(exit_code(report.findings), hangs)


def _exit(code: int, hangs: bool) -> int:
    """Return the exit code, or end the process with it: Python would wait for a thread that hangs."""
    if hangs:
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
        from electra_scale.recipe.parse import parse_recipe, pretrain_parser

        recipe, _ = parse_recipe(pretrain_parser(), training)
        run_dir, store = options.run_dir or recipe.run_dir, store or recipe.data.store
        if is_object_store(store) or recipe.data.cache.folder is not None:
            cache = str(cache_folder(recipe.data.cache))
    return Checks(run_dir, store, cache, options.short, options.wait)
