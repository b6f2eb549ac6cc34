"""The page of a report: the sections in reading order, in one file that asks for nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files

from electra_scale.report.charts import short
from electra_scale.report.figures import anchor, run_heads, section, time_section
from electra_scale.report.markup import bullets, folded, key, letter, table, text
from electra_scale.report.material import Run, differences
from electra_scale.report.panels import SECTIONS, WORDS, Section
from electra_scale.report.rows import POINTS
from electra_scale.report.score_sections import scores_section
from electra_scale.report.summary import facts, line, paragraph, stands_out
from electra_scale.report.time_spent import time_spent

_READING = (
    f"How to read the plots: where more than {POINTS} values were logged, a line goes through the means of "
    "neighbouring ones, and in the page of a single run the shade spans their least and their largest. A line is "
    "broken where steps are missing. Where most values are far below the largest, the axis is logarithmic and says so."
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page_of(runs: Sequence[Run], examples: Sequence[str], made: datetime) -> str:
    """The whole page.

    Args:
        examples: for each run, markup of what its sampler replaces, or a line that says why there is none.
        made: the time that the page says it was made at.
    """
    title = f"Run {runs[0].label}" if len(runs) == 1 else f"{len(runs)} runs: {', '.join(run.label for run in runs)}"
    parts: list[tuple[str, str, str]] = []
    if len(runs) > 1:
        parts.append(("differences", "What differs", _differences(runs)))
    for found in SECTIONS:
        content = section(found, runs)
        if found.name == "speed":
            content += time_section(runs, [time_spent(run) for run in runs])
        if found.name == "draws":
            content += _examples(runs, examples)
        content = f"{_absent(found, runs)}{content}"
        if content:
            parts.append((found.name, found.title, content))
    parts.append(("scores", "Evaluation and fine-tuning", scores_section(runs)))
    parts.append(("facts", "Facts", facts(runs)))
    parts.append(("values", "All values and settings", _everything(runs)))
    parts.append(("words", "Words", _words()))
    links = "".join(f'<a href="#{name}">{text(heading)}</a>' for name, heading, _ in parts)
    body = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-heading"><h2 id="{name}-heading">{text(heading)}</h2>\n'
        f"{content}\n</section>"
        for name, heading, content in parts
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
        f"<header><h1>{text(title)}</h1>\n"
        f'<p class="quiet">electra-scale report of {made:%Y-%m-%d %H:%M}</p>\n'
        f"{''.join(_head(number, run, len(runs) > 1) for number, run in enumerate(runs))}\n"
        f"{_results(runs)}"
        f'<nav aria-label="sections">{links}</nav>\n'
        f'<p class="quiet">{text(_READING)}</p></header>\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _style() -> str:
    return files("electra_scale.report").joinpath("page.css").read_text("utf-8")


def _head(number: int, run: Run, several: bool) -> str:
    name = f"<strong>{key(number)}{letter(number)}</strong> " if several else ""
    found = stands_out(run)
    quiet = "" if not len(run.rows) else "What stands out: nothing. No alarm, no skipped step, no restart."
    marked = (
        f'<div class="warn"><p>What stands out{f" in {letter(number)}" if several else ""}:</p>{bullets(found)}</div>'
    )
    notes = f'<div class="warn"><p>Left out of this page:</p>{bullets(run.notes)}</div>' if run.notes else ""
    words = line(run) if several else paragraph(run)
    lead = f'<p class="lead">{name}{text(words)}{"" if found or several else f" {quiet}"}</p>'
    return f"{lead}{marked if found else ''}{notes}\n"


_FIGURES = (
    ("eval/auc", "AUC, held out"),
    ("eval/discriminator_loss", "discriminator's loss, held out"),
    ("eval/generator_cross_entropy", "generator's nats, held out"),
    ("eval/pairs_swapped", "pairs, swapped"),
    ("eval/pairs_replaced", "pairs, replaced"),
    ("disc_loss_variance/draw_ratio", "draw ratio, last probe"),
    ("speed/tokens_per_second", "tokens per second"),
)


def _results(runs: Sequence[Run]) -> str:
    """The figures that people ask for first: cards of one run, a table of several."""
    found = [(name, [run.rows.last(tag) for run in runs]) for tag, name in _FIGURES]
    found = [(name, cells) for name, cells in found if any(cells)]
    if not found:
        return ""
    if len(runs) == 1:
        cards = "".join(f"<div><dt>{text(name)}</dt><dd>{short(cell[1])}</dd></div>" for name, [cell] in found if cell)
        return f'<dl class="facts">{cards}</dl>\n'
    rows = [[text(name), *(short(cell[1]) if cell else "" for cell in cells)] for name, cells in found]
    return table(["at the end", *run_heads(runs)], rows)


def _differences(runs: Sequence[Run]) -> str:
    found = differences(runs)
    stores = {run.data.get("manifest") for run in runs}
    warning = ""
    if len(stores) > 1:
        warning = '<p class="warn">The runs read different stores: their held-out figures are of different text.</p>'
    if not found:
        return f"{warning}<p>Recipe and DeepSpeed JSON are the same in all of them.</p>"
    rows = [[f"<code>{text(name)}</code>", *(_value(value) for value in values)] for name, values in found]
    shown = table(["setting", *run_heads(runs)], rows, kind="text")
    return f"{warning}<p>Settings that are not the same in all runs; all others are.</p>{shown}"


def _value(value: object) -> str:
    if value is None:
        return '<span class="quiet">unset</span>'
    return text(str(value).lower() if isinstance(value, bool) else value)


def _absent(found: Section, runs: Sequence[Run]) -> str:
    """Lines on what a reader may look for in a section and does not find."""
    lines = []
    for number, run in enumerate(runs):
        if not len(run.rows):
            continue
        name = f"Run {letter(number)}" if len(runs) > 1 else "The run"
        last = run.rows.phases[-1]
        warming = last == "generator_warmup"
        if found.name == "detection" and not _any(run, "eval/auc", "disc/auc"):
            why = "it is still in the generator's warm-up" if warming else "its rows have none"
            if run.setting("task.kind") == "mlm":
                why = "it is a masked language model (task.kind is mlm)"
            elif run.setting("schedule.steps") == 0:
                why = "it trains the generator alone (schedule.steps is 0)"
            lines.append(f"{name} has no figures of the discriminator: {why}.")
        elif found.name == "detection" and not _any(run, "eval/auc"):
            lines.append(
                f"{name} has no held-out AUC yet: the store has no held-out text, or logging.evaluate_every "
                f"({run.setting('logging.evaluate_every', 'unknown')}) has not come round."
            )
        if found.name == "variance" and not _any(run, "disc_loss_variance/draw_ratio"):
            lines.append(
                f"{name} has no variance probe yet, so p and q are not compared: logging.probe_every is "
                f"{run.setting('logging.probe_every', 'unknown')} (0 means none), and a probe needs held-out text "
                "and the joint phase."
            )
    return "".join(f'<p class="quiet">{text(line)}</p>' for line in lines)


def _any(run: Run, *tags: str) -> bool:
    return any(run.rows.last(tag) for tag in tags)


def _examples(runs: Sequence[Run], examples: Sequence[str]) -> str:
    several = len(runs) > 1
    if not any(examples):
        return ""
    parts = [
        f"<h3>{key(number)}{letter(number)}</h3>{found}" if several else found for number, found in enumerate(examples)
    ]
    return f'<div id="examples"><h3>What the sampler replaces</h3>{"".join(parts)}</div>'


def _everything(runs: Sequence[Run]) -> str:
    tags = sorted({tag for run in runs for tag in run.rows.columns})
    rows = []
    for tag in tags:
        cells = [run.rows.last(tag) for run in runs]
        rows.append(
            [
                f"<code>{text(tag)}</code>",
                *(f"{short(cell[1])} <small>at {cell[0]:,}</small>" if cell else "" for cell in cells),
            ]
        )
    values = folded(f"{len(tags)} values", table(["tag", *run_heads(runs)], rows)) if tags else ""
    keys = list({name: None for run in runs for name in run.settings})
    settings = [[f"<code>{text(name)}</code>", *(_value(run.settings.get(name)) for run in runs)] for name in keys]
    head = ["setting", *(["value"] if len(runs) == 1 else run_heads(runs))]
    return values + (folded(f"{len(keys)} settings", table(head, settings, kind="text")) if keys else "")


def _words() -> str:
    items = "".join(
        f'<dt id="{anchor(word)}">{text(word)}</dt><dd>{text(meaning)}</dd>' for word, meaning in WORDS.items()
    )
    return (
        f'<dl class="words">{items}</dl><p class="quiet">docs/variance.md says how to read each tag and what an alarm '
        "means, docs/method.md has the formulas, docs/report.md describes this page.</p>"
    )
