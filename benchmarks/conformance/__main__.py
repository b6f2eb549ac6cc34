"""Which trainer keeps which promise: one table, one line for each that is broken, one run.

python -m benchmarks.conformance --out runs/bench/conformance.json

See docs/conformance.md for the promises, and for how to have one's own trainer checked.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.conformance.contestants import CONTESTANTS
from benchmarks.measure import table, write_figures
from tests.conformance.observed import observe
from tests.conformance.promises import PROMISES, Finding
from tests.conformance.trainer import Trainer

SHOWN = {"kept": "yes", "broken": "NO", "unseen": "not seen", "absent": "-"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check what trainers of replaced token detection promise.")
    parser.add_argument(
        "--contestants", choices=list(CONTESTANTS), nargs="*", default=list(CONTESTANTS), help="who takes part (all)"
    )
    parser.add_argument(
        "--trainer", action="append", default=[], metavar="MODULE:NAME", help="one's own: what makes its adapter"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench/conformance.json"), help="JSON with every figure")
    return parser.parse_args()


def findings(trainer: Trainer) -> dict[str, Finding]:
    """What became of each promise."""
    seen = observe(trainer)
    return {name: check(seen) for name, check in PROMISES.items()}


def own(name: str) -> Trainer:
    """The adapter that a user names, as ``module:name`` of what is called to make it."""
    module, _, maker = name.partition(":")
    try:
        found: Trainer = getattr(importlib.import_module(module), maker)()
    except (ImportError, AttributeError, ValueError) as error:
        sys.exit(f"--trainer {name}: {error}; name what makes an adapter as module:name, with its folder on PYTHONPATH")
    return found


def main() -> None:
    args = arguments()
    # The trainers' libraries warn of much that is no concern of these checks.
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, Finding]] = {}
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in args.contestants:
        contestant = CONTESTANTS[name]
        try:
            found[name] = findings(contestant.make())
            versions[name] = contestant.version
        except ImportError as error:
            missing[name] = f"{error}; pip install --no-deps {contestant.install}"
        except Exception as error:
            # A trainer that other versions of its libraries break must not take the others' table with it.
            missing[name] = f"it fails with {type(error).__name__}: {error}"
    for name in args.trainer:
        found[name] = findings(own(name))
    print(shown(found))
    for name, one in found.items():
        for promise, finding in one.items():
            if finding.outcome in ("broken", "unseen"):
                print(f"{name}: {promise}: {SHOWN[finding.outcome]}, {detail(finding)}")
    for name, why in missing.items():
        print(f"{name}: skipped, {why}")
    figures: dict[str, Any] = {
        name: {promise: asdict(finding) for promise, finding in one.items()} for name, one in found.items()
    }
    write_figures(args, figures=figures, versions=versions, skipped=missing)
    if not found:
        sys.exit(1)


def shown(found: dict[str, dict[str, Finding]]) -> str:
    """A row for each promise, a column for each trainer."""
    rows = [[promise, *(SHOWN[one[promise].outcome] for one in found.values())] for promise in PROMISES]
    return table(["promise", *found], rows)


def detail(finding: Finding) -> str:
    """Why it cannot be seen, or the figures."""
    return finding.why or ", ".join(f"{name} {value:.3g}" for name, value in finding.figures.items())


if __name__ == "__main__":
    main()
