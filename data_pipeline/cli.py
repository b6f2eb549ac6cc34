"""The ``electra-data`` command. What a command needs is imported when it runs, so that Ctrl-C is a line by then."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from data_pipeline.build.mpi import launched, lead
from data_pipeline.command_line import run_command
from data_pipeline.errors import UserError
from data_pipeline.outputs import reader_is_gone
from data_pipeline.progress import counted
from data_pipeline.refused_value import refused_value
from data_pipeline.settings import as_yaml_line, nearest, refuse_repeated_options

if TYPE_CHECKING:
    import jsonargparse

PROGRAM = "electra-data"


def _build_parser() -> jsonargparse.ArgumentParser:
    import jsonargparse

    from data_pipeline.config import BuildConfig

    class Parser(jsonargparse.ArgumentParser):
        """An argument parser that reports an error in one line, like the rest of the program."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            raise UserError(f"{refused_value(message, BuildConfig)}; see `{self.prog} --help`")

    parser = Parser(
        prog=f"{PROGRAM} build",
        description="Build a store of tokenized shards, or continue an unfinished one.",
    )
    parser.add_argument("--config", action="config", help="YAML file with the keys below.")
    parser.add_class_arguments(BuildConfig)
    return parser


def _with_files_read(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments, with the content of each configuration in place of its name."""
    from data_pipeline.config import read_config_file

    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option != "--config":
            yield argument
            continue
        yield option
        path = value if equals else next(rest, None)
        if path is not None:
            yield as_yaml_line(read_config_file(path))


def _build(arguments: Sequence[str], ranks: Executor | None = None) -> int:
    from data_pipeline.build.build import build_store
    from data_pipeline.config import BuildConfig, CleanConfig, SourceConfig, TokenizerConfig

    refuse_repeated_options(arguments, BuildConfig)
    arguments = list(_with_files_read(arguments))
    parser = _build_parser()
    options = [option for action in parser._actions for option in action.option_strings]
    for argument in arguments:
        name = argument.split("=")[0]
        if name.startswith("--") and name.rstrip("+") not in options:
            raise UserError(f"unknown option {name}: {nearest(name, options)}")
    values: dict[str, Any] = parser.parse_args(list(arguments)).as_dict()
    values["sources"] = [SourceConfig(**source) for source in values["sources"]]
    for section in ("tokenizer", "clean"):
        # Where it came from a file of its own.
        values[section].pop("__path__", None)
    values["tokenizer"] = TokenizerConfig(**values["tokenizer"])
    values["clean"] = CleanConfig(**values["clean"])
    config = BuildConfig(**{field.name: values[field.name] for field in dataclasses.fields(BuildConfig)})
    build_store(config, ranks)
    return 0


def _simple_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Prepare text for pre-training: build, look into and check stores."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("build", help="build a store from text (see `electra-data build --help`)", add_help=False)
    inspect = commands.add_parser("inspect", help="print what a store holds")
    inspect.add_argument("store", help="the store: a folder, or s3://bucket/prefix")
    inspect.add_argument("--samples", type=int, default=3, metavar="N", help="decoded documents to show (3)")
    verify = commands.add_parser("verify", help="check every checksum and count of a store")
    verify.add_argument("store", help="the store: a folder, or s3://bucket/prefix")
    report = commands.add_parser("report", help="write a page with plots of what a store holds")
    report.add_argument("store", help="the store: a folder, or s3://bucket/prefix")
    report.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="page (report.html)")
    corpus = commands.add_parser("corpus", help="fetch real English text for the demo")
    corpus.add_argument("out", help="folder to put the text into")
    corpus.add_argument(
        "--max-mb", type=float, default=52.0, metavar="N", help="at most this many MB of clean text (52)"
    )
    return parser


def _run(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "build":
        return _build(arguments[1:])
    options = _simple_parser().parse_args(arguments)
    if options.command == "inspect":
        from data_pipeline.report.describe import describe_store

        for line in describe_store(options.store, options.samples):
            print(line)
            if reader_is_gone():
                break
        return 0
    if options.command == "verify":
        from data_pipeline.report.verify import verify_store

        problems = verify_store(options.store)
        for problem in problems:
            print(f"{PROGRAM}: {problem}", file=sys.stderr)
        print(f"{options.store}: {counted(len(problems), 'fault')}" if problems else f"{options.store}: sound")
        return 1 if problems else 0
    if options.command == "report":
        # Plots need an extra that the other commands do without.
        from data_pipeline.report.page import write_report

        write_report(options.store, options.out)
        print(f"wrote {options.out}")
        return 0
    from data_pipeline.corpus.fetch import fetch_corpus

    fetch_corpus(options.out, options.max_mb)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, 1 (verify found a fault), 2 (an error the user can act on) or 130."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "numpy" not in sys.modules:
        # No command multiplies matrices, and the threads for that start with numpy and spin for a while.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    launch = launched(os.environ) if arguments[:1] == ["build"] else None

    def command() -> int:
        if launch is None:
            return _run(arguments)
        return lead(launch, lambda ranks: _guarded(lambda: _build(arguments[1:], ranks)))

    return _guarded(command)


def _guarded(command: Callable[[], int]) -> int:
    return run_command(PROGRAM, command, "run the same command again to continue")


if __name__ == "__main__":
    sys.exit(main())
