"""``electra-scale report``: one page of one run, or of several side by side."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.extras import needs_extra
from data_pipeline.places.atomic import write_bytes

_NAME = "report.html"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="run", help="run folder; several are shown side by side")
    parser.add_argument(
        "--out", type=Path, help=f"page to write (default: {_NAME} in the run's folder; of several runs, in this one)"
    )
    parser.add_argument(
        "--no-examples", action="store_true", help="leave out what the sampler replaces, which opens a checkpoint"
    )


def run_report(options: argparse.Namespace) -> int:
    """Write the page; returns the exit code."""
    out = write_report(options.runs, options.out, not options.no_examples)
    print(f"report: {out}")
    return 0


def write_report(paths: list[Path], out: Path | None = None, examples: bool = True) -> Path:
    """Write the page of one or several runs, whole or not at all; returns its path.

    Args:
        examples: whether to show what a sampler replaces, for which a checkpoint is opened.

    Raises:
        UserError: matplotlib is missing; a path is not a run folder, or its files cannot be read; the page cannot be
            written.
    """
    with needs_extra("report", "matplotlib", "a page with plots"):
        import matplotlib  # noqa: F401 - only whether it is there
    from electra_scale.report.material import read_runs
    from electra_scale.report.page import page_of

    runs = read_runs(paths)
    if out is None:
        out = runs[0].path / _NAME if len(runs) == 1 else Path(_NAME)
    if out.is_dir():
        raise UserError(f"cannot write the report {out}: it is a folder; name a file with --out")
    page = page_of(runs, [_examples(run.path) if examples else "" for run in runs], datetime.now())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, page.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"cannot write the report {out}: {error.strerror}; choose another --out") from error
    return out


def _examples(run: Path) -> str:
    """Markup of what a run's sampler replaces, or a line that says why it cannot be shown."""
    from electra_scale.report.draw_section import example_section
    from electra_scale.report.draws import examples_of
    from electra_scale.report.markup import text

    try:
        return example_section(examples_of(run))
    except UserError as error:
        return f'<p class="quiet">No examples: {text(error)}.</p>'
