"""The variance of L_D of a checkpoint, in parts: a table, and a JSON file of its figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from data_pipeline.places.json_file import finite_values
from data_pipeline.progress import counted, tracking
from electra_scale.commands.probe import open_probed
from electra_scale.monitor.variance_parts import PARTS, part_figures, parts_by_row
from electra_scale.train.heldout.variance_parts import mask_anew

_HEADINGS = ("from p", "share", "from q", "share", "q / p")


def split_variance(run: Path, step: int | None, masks: int, samples: int, draws: int, store_url: str | None) -> Path:
    """Split the variance of a run's newest checkpoint, or of that of ``step``; print the table and write the figures.

    Returns the file that it writes, ``probe/parts-NNNNNNNN.json``. Raises UserError as
    :func:`electra_scale.commands.probe.open_probed` does.
    """
    if min(masks, samples, draws) < 2:
        raise UserError(f"--masks is {masks}, --samples {samples} and --draws {draws}; each must be at least 2")
    found = open_probed(run, step, store_url)
    recipe, samples = found.recipe, min(samples, found.loader.samples)
    if samples < 2:
        raise UserError(f"{found.store.url} has {counted(samples, found.split + ' sample')}; at least 2 are needed")
    with tracking(samples, 0, "parts", unit="sample") as advance:
        anew = mask_anew(
            found.module.eval(),
            found.loader,
            samples,
            masks,
            draws,
            recipe.data.mask_share,
            recipe.batch.most_per_device,
            found.clock,
            found.device,
            advance,
        )
    figures = part_figures(parts_by_row(anew.sum_p, anew.tokens), parts_by_row(anew.sum_q, anew.tokens))
    content = {
        "run": str(run),
        "step": found.state.step,
        "store": found.store.url,
        "split": found.split,
        "sampler": recipe.corruption.sampler,
        "other_objective": list(recipe.corruption.other_objective),
        "samples": samples,
        "masks": masks,
        "draws": draws,
        "tokens": float(anew.tokens.sum()),
        "global_batch": recipe.batch.global_batch,
        "figures": figures,
    }
    path = run / "probe" / f"parts-{found.state.step:08d}.json"
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, json.dumps(finite_values(content), indent=1).encode() + b"\n")
    print(
        f"{run}, step {found.state.step}, {recipe.corruption.label}\n"
        f"{counted(samples, found.split + ' sample')}, {counted(masks, 'mask')} of each, {counted(draws, 'draw')} of "
        f"each mask from p and from q\n\n{table(figures, recipe.batch.global_batch)}\n\nwritten: {path}"
    )
    return path


def table(figures: dict[str, dict[str, dict[str, float]]], batch: int) -> str:
    """The figures of :func:`electra_scale.monitor.variance_parts.part_figures` for people."""
    lines = [_row(f"variance of L_D, {counted(batch, 'row')}", *_HEADINGS)]
    for name in PARTS:
        p, q = (figures[source][name] for source in ("p", "q"))
        cells = []
        for one in (p, q):
            cells += [f"{one['variance'] / batch:.3g} +- {one['error'] / batch:.1g}"]
            cells += [f"{one['share']:.3f} +- {one['share_error']:.3f}"]
        ratio = "" if math.isnan(q["ratio"]) else f"{q['ratio']:.3f} +- {q['ratio_error']:.3f}"
        lines.append(_row(name, *cells, ratio))
    most = figures["p"]["draws"]
    lines += [
        "",
        f"no sampler that keeps the expectation can take more than the share of the draws, {most['share']:.3f} +- "
        f"{most['share_error']:.3f} of the variance with draws from p",
    ]
    return "\n".join(lines)


def _row(name: str, *cells: str) -> str:
    return (f"{name:<28}" + "".join(f"{cell:<22}" for cell in cells)).rstrip()
