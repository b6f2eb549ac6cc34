"""A checkpoint's sampler beside one that knows the true losses: a table, and a JSON file that grows row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from data_pipeline.places.json_file import finite_values
from data_pipeline.progress import counted, log, tracking
from electra_scale.commands.probe import Probed, open_probed
from electra_scale.monitor.oracle_figures import OracleRow, oracle_figures
from electra_scale.train.heldout.oracle import OracleSettings, measure_row

_GROUPS = 2
"""Of a row's draws: their difference is the error over draws. Two lose least, and there are as many pairs as rows."""

_NAMES = {
    "p": "p (ELECTRA)",
    "head": "the run's head",
    "own": "the run's sampler",
    "oracle_loss": "true loss",
    "oracle_gradient": "true gradient",
    "least": "the best there is",
}


def compare_with_oracle(
    run: Path, step: int | None, candidates: int, samples: int, draws: int, store_url: str | None
) -> Path:
    """Measure a run's newest checkpoint, or that of ``step``, in this process; print the table and write the figures.

    Returns the file that it writes, ``probe/oracle-NNNNNNNN.json``. It is written after each row, and a later call with
    the same settings, perhaps for more samples, measures the rows that it does not have. Raises UserError as
    :func:`electra_scale.commands.probe.open_probed` does.
    """
    if candidates < 1 or samples < 1 or draws < 2 * _GROUPS:
        raise UserError(
            f"--oracle is {candidates}, --samples {samples} and --draws {draws}; they must be at least 1, 1 and "
            f"{2 * _GROUPS}"
        )
    found = open_probed(run, step, store_url)
    settings = OracleSettings(
        candidates, draws, _GROUPS, found.recipe.corruption.mixture, found.recipe.batch.most_per_device, found.clock
    )
    described = _described(found, settings, run)
    path = run / "probe" / f"oracle-{found.state.step:08d}.json"
    samples = min(samples, found.loader.samples)
    rows = {row.row: row for row in _measured(path, described)}
    path.parent.mkdir(exist_ok=True)
    module = found.module.eval()
    pending = [row for row in range(samples) if row not in rows]
    with tracking(samples, samples - len(pending), "oracle", unit="sample") as advance:
        for row in pending:
            rows[row] = measure_row(module, found.loader, row, found.recipe.data.mask_share, settings, found.device)
            _write(path, described, rows)
            advance()
    figures = oracle_figures([rows[row] for row in range(samples)])
    _write(path, described, rows, figures)
    changed = ", ".join(found.recipe.corruption.other_objective)
    trained = f"\nthe run trains another objective ({changed}); here every weight is p/q in full" if changed else ""
    print(
        f"{run}, step {found.state.step}, sampler {found.recipe.corruption.sampler}{trained}\n"
        f"{counted(samples, found.split + ' sample')}, {counted(figures['positions'], 'masked position')}, "
        f"{counted(draws, 'draw')} from each; the original and the {candidates} likeliest other tokens hold "
        f"{figures['covered']:.3f} of p\n\n{table(figures)}\n\nwritten: {path}"
    )
    return path


def _described(found: Probed, settings: OracleSettings, run: Path) -> dict[str, Any]:
    """What the figures of a row follow from."""
    checksums = run / "checkpoints" / found.tag / "checksums.json"
    return {
        "step": found.state.step,
        "checkpoint": hashlib.sha256(checksums.read_bytes()).hexdigest() if checksums.is_file() else "",
        "manifest": found.store.manifest.fingerprint,
        "split": found.split,
        "sampler": found.recipe.corruption.sampler,
        "candidates": settings.candidates,
        "draws": settings.draws,
        "groups": settings.groups,
        "mixture": settings.mixture,
        "mask_share": found.recipe.data.mask_share,
        "seed": found.loader.seed,
    }


def _measured(path: Path, described: Mapping[str, Any]) -> list[OracleRow]:
    """The rows of an earlier call with the same settings; a line says why others are not used."""
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text())
        before, rows = content["settings"], [OracleRow.of(row) for row in content["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        log(f"{path} cannot be read ({type(error).__name__}) and is measured anew")
        return []
    different = [key for key in described if before.get(key) != described[key]]
    if different:
        values = ", ".join(f"{key} {before.get(key)} there, {described[key]} now" for key in different)
        log(f"{path} is of other settings ({values}) and is measured anew")
        return []
    return rows


def _write(
    path: Path, described: Mapping[str, Any], rows: Mapping[int, OracleRow], figures: Mapping[str, Any] | None = None
) -> None:
    content = {"settings": described, "figures": figures, "rows": [rows[row].to_dict() for row in sorted(rows)]}
    write_bytes(path, json.dumps(finite_values(content)).encode() + b"\n")


def table(figures: Mapping[str, Any]) -> str:
    """The figures of :func:`electra_scale.monitor.oracle_figures.oracle_figures` for people."""
    exact, drawn = figures["enumerated"], figures["drawn"]
    lines = [
        "one position, the other replacements fixed: exact over the tried tokens (+- over rows)",
        _row(
            "draws from",
            "variance of w l",
            "its ratio to p's",
            "of the possible gain",
            "of the logit's gradient",
            "gain",
        ),
    ]
    for name in (*drawn, "least"):
        cells = []
        for what in ("loss", "gradient"):
            one = exact[what][name]
            if what == "loss":
                cells.append(f"{one['variance']:.4g}")
            cells.append(_with_error(one["ratio"], one["error_rows"]))
            known = name not in ("p", "least")
            cells.append(_with_error(one["reached"], one["reached_error_rows"]) if known else "")
        lines.append(_row(_NAMES[name], *cells))
    columns = {
        "all replacements drawn anew together: variance, that from p being 1 (+- over draws; in brackets over rows)": {
            "sum of w l, masked": ("loss", "masked"),
            "loss of all tokens": ("loss", "both"),
            "gradient, all of it": ("all parameters", "both"),
        },
        "and of the gradient": {
            "head": ("head", "both"),
            "last layer": ("last layer", "both"),
            "all, of masked losses": ("all parameters", "masked"),
            "all, of other losses": ("all parameters", "others"),
        },
    }
    for title, found in columns.items():
        lines += ["", title, _row("draws from", *found)]
        for name, one in drawn.items():
            lines.append(_row(_NAMES[name], *(_both_errors(one[what][split]) for what, split in found.values())))
    of = drawn["p"]["all parameters"]
    lines += [
        "",
        f"with draws from p the masked losses make {of['masked']['share']:.3f} of the gradient's variance, the others "
        f"{of['others']['share']:.3f}; the rest is their covariance",
        "largest w, and effective sample size: "
        + "; ".join(f"{_NAMES[name]} {one['weight_max']:.2f}, {one['ess']:.3f}" for name, one in drawn.items()),
    ]
    return "\n".join(lines)


def _row(name: str, *cells: str) -> str:
    return (f"{name:<18}" + "".join(f"{cell:<24}" for cell in cells)).rstrip()


def _with_error(value: float, error: float) -> str:
    return f"{value:.3f} +- {error:.3f}"


def _both_errors(one: Mapping[str, float]) -> str:
    if one["ratio"] == 1 and one["error_rows"] == 0:
        return "1"
    return f"{_with_error(one['ratio'], one['error_draws'])} ({one['error_rows']:.3f})"
