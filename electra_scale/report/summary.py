"""The head of a report: a paragraph in words, what stands out, and a table of facts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from data_pipeline.progress import counted
from electra_scale.recipe.corruption import GeneratorSettings
from electra_scale.report.charts import short
from electra_scale.report.figures import duration, run_heads
from electra_scale.report.markup import table, text
from electra_scale.report.material import Run

_PROBES = 5
_FROM_GENERATOR = "generator_warmup.discriminator_from_generator"
_AUC = ("eval/auc", "disc/auc")
_GENERATOR = ("eval/generator_cross_entropy", "gen/cross_entropy")


def tokens(run: Run) -> float | None:
    """Tokens that the run has been trained on, padding left out; None if the recipe does not say."""
    if not run.positions or not len(run.rows):
        return None
    packed = run.rows.columns.get("data/packing_efficiency")
    share = 1.0
    if packed is not None and any(math.isfinite(value) for value in packed):
        share = float(packed[[math.isfinite(value) for value in packed]].mean())
    return float(run.rows.steps[-1]) * run.positions * share


def state(run: Run) -> str:
    """How the run stands, for people."""
    if run.status is None:
        return "is in an unknown state: it has no status.json that can be read"
    found = run.status
    of = f"of {found.total_steps:,}"
    reached = int(run.rows.steps[-1]) if len(run.rows) else 0
    if found.state == "failed":
        reason = f" ({found.reason})" if found.reason else ""
        return f"failed after step {reached:,} {of}{reason}, and its newest checkpoint is of step {found.step:,}"
    if found.state == "running":
        return f"is running, or was killed, at step {reached:,} {of} (the status does not tell these apart)"
    verb = {"finished": "finished", "stopped": "was stopped"}[found.state]
    return f"{verb} at step {found.step:,} {of}{f' ({found.reason})' if found.reason else ''}"


def paragraph(run: Run) -> str:
    """What was trained, how far it got, and where it ended; as text."""
    sentences = [_what(run), _how_much(run), _end(run)]
    return " ".join(sentence for sentence in sentences if sentence)


def line(run: Run) -> str:
    """How a run among several stands; as text."""
    seen, time = tokens(run), run.log.running.total_seconds()
    read = f"; {short(seen)} tokens" if seen else ""
    return f"{run.label} {state(run)}{read}{f' in {duration(time)}' if time else ''}{_hardware(run, ' on ')}."


def _what(run: Run) -> str:
    sizes = [
        f"{counted(run.setting(f'model.{network}.layers'), 'layer')} of width {run.setting(f'model.{network}.hidden')}"
        for network in ("discriminator", "generator")
        if type(run.setting(f"model.{network}.layers")) is int
    ]
    if run.setting("task.kind") == "mlm":
        return f"{run.label} trains one encoder{f' of {sizes[0]}' if sizes else ''} by masked tokens alone."
    if run.setting("schedule.steps") == 0:
        return f"{run.label} trains a generator{f' of {sizes[1]}' if len(sizes) > 1 else ''} alone, by masked tokens."
    alone = run.setting("corruption.kind", "generator") != "generator"
    generator = f" and a generator of {sizes[1]}" if len(sizes) > 1 and not alone else ""
    size = f" of {sizes[0]}" if sizes else ""
    draws = run.setting("corruption.kind") if alone else run.setting("corruption.sampler", "an unknown sampler")
    return f"{run.label} trains a discriminator{size}{generator}; replacements are drawn by {draws}."


def _how_much(run: Run) -> str:
    if not len(run.rows):
        return f"It {state(run)}. No step has been logged yet, so there is nothing to plot."
    seen, time = tokens(run), run.log.running.total_seconds()
    read = f"{short(seen)} tokens" if seen else "an unknown number of tokens"
    length = f" in {duration(time)}" if time else ""
    sentences = [f"It {state(run)}, and has read {read}{length}{_hardware(run, ' on ')}."]
    warmup = run.setting("generator_warmup.steps")
    if type(warmup) is int and warmup:
        left = "" if run.rows.phases[-1] != "generator_warmup" else ", and it has not got further"
        if run.setting("schedule.steps") == 0:
            left = ", and there are no others: it trains no discriminator"
        then = ", from whose weights the discriminator then starts" if run.setting(_FROM_GENERATOR) else ""
        sentences.append(f"The first {counted(warmup, 'step')} train the generator alone{then}{left}.")
    return " ".join(sentences)


def _hardware(run: Run, before: str = "") -> str:
    """Devices, ranks and hosts of all starts; of a run that did not record them, what its log says of the last."""
    if run.hardware:
        places = [f"{each.where} ({each.device})" for each in run.hardware]
        later = [f"from step {each.step:,} {place}" for each, place in zip(run.hardware, places, strict=True)][1:]
        return before + "; ".join([places[0], *later])
    if not run.log.attempts:
        return ""
    last = run.log.attempts[-1]
    return f"{before}{counted(last.ranks, 'rank')} ({last.device})"


def _end(run: Run) -> str:
    sentences = []
    for tags, sentence in (
        (_GENERATOR, "the generator's loss is {value} nats for a masked token{where}"),
        (_AUC, "the AUC of the discriminator is {value}{where} (0.5 is chance)"),
    ):
        found = next(((tag, last) for tag in tags if (last := run.rows.last(tag))), None)
        if found:
            where = " on held-out text" if found[0].startswith("eval/") else " in training"
            sentences.append(sentence.format(value=short(found[1][1]), where=where))
    pairs = [run.rows.last(f"eval/pairs_{kind}") for kind in ("swapped", "replaced")]
    if all(pairs):
        shares = " and ".join(short(pair[1]) for pair in pairs if pair)
        sentences.append(f"it prefers the true sentence of {shares} of the pairs (swapped, replaced)")
    if not sentences:
        return ""
    ended = run.status is not None and run.status.finished
    return f"{'At the end' if ended else 'So far'} {'; '.join(sentences)}.{_ratio(run)}"


def _ratio(run: Run) -> str:
    """What the sampler does to the noise; the median of some probes, since a single one is noisy."""
    ratios = run.rows.columns.get("disc_loss_variance/draw_ratio")
    found = [] if ratios is None else [value for value in ratios.tolist() if math.isfinite(value)][-_PROBES:]
    if not found:
        return ""
    if all(value == 1 for value in found):
        return " Its draws are the generator's own: the draw ratio is 1."
    which = f"the median of the last {len(found)} probes" if len(found) > 1 else "one probe"
    sentence = (
        f" The sampler's draws make the discriminator's loss vary {short(statistics.median(found))} times as much as "
        f"the generator's own would ({which})."
    )
    changed = _objective(run).other_objective
    return sentence + (f" These are losses of two objectives: {', '.join(changed)}." if changed else "")


def _objective(run: Run) -> GeneratorSettings:
    """What of a run's corruption decides whether its loss is that of draws from p."""
    names = ("sampler", "weight_power", "allow_original")
    given = {name: run.setting(f"corruption.{name}") for name in names}
    if run.setting("corruption.importance_weights") is not None:
        # A run of an earlier release.
        given["weight_power"] = float(run.setting("corruption.importance_weights"))
    return GeneratorSettings(**{name: value for name, value in given.items() if value is not None})


def stands_out(run: Run) -> list[str]:
    """Alarms, skipped steps, restarts and changes; empty for a run in which nothing of it happened."""
    found = [f"Alarm at step {step:,}: {sentence}" for step, sentence in run.log.alarms]
    if run.status is not None and run.status.state == "failed":
        found.insert(0, f"The run failed: {run.status.reason or 'no reason was written'}")
    skipped = run.rows.last("optim/skipped_steps")
    count = max(len(run.log.skipped), int(skipped[1]) if skipped else 0)
    if count:
        where = f", the first at step {run.log.skipped[0]:,}" if run.log.skipped else ""
        found.append(f"{counted(count, 'step')} skipped, whose loss or gradient was not finite{where}.")
    restarts = run.log.attempts[1:]
    if restarts:
        steps = ", ".join(f"{attempt.step:,}" for attempt in restarts[:6])
        more = f" and {len(restarts) - 6} more" if len(restarts) > 6 else ""
        marks = "triangles" if len(restarts) > 1 else "triangle"
        found.append(f"{counted(len(restarts), 'restart')}, from step {steps}{more}: the {marks} under the plots.")
    for change in run.changes:
        found.append(
            f"At step {change['step']} {change['setting']} was changed from {change['from']} to {change['to']}."
        )
    return [*found, *(f"Warning: {line}" for line in run.log.warnings)]


def facts(runs: Sequence[Run]) -> str:
    """The table of facts, a column for each run."""
    rows = [
        ("state", [state(run).removeprefix("is ") for run in runs]),
        ("steps logged", [f"{run.rows.steps[-1]:,}" if len(run.rows) else "none" for run in runs]),
        ("tokens read", [short(seen) if (seen := tokens(run)) else "unknown" for run in runs]),
        (
            "global batch",
            [f"{run.setting('batch.global_batch')} x {run.setting('data.sequence_length')}" for run in runs],
        ),
        ("hardware", [_hardware(run) or "unknown" for run in runs]),
        ("began", [f"{run.log.attempts[0].began}" if run.log.attempts else "unknown" for run in runs]),
        ("last line of the log", [f"{run.log.attempts[-1].ended}" if run.log.attempts else "unknown" for run in runs]),
        (
            "running time",
            [duration(run.log.running.total_seconds()) if run.log.attempts else "unknown" for run in runs],
        ),
        ("starts", [f"{len(run.log.attempts)}" for run in runs]),
        ("sampler", [str(run.setting("corruption.sampler", "unknown")) for run in runs]),
        ("store", [str(run.data.get("store", "unknown")) for run in runs]),
        ("store's fingerprint", [str(run.data.get("manifest", "unknown")) for run in runs]),
        (
            "versions",
            [", ".join(f"{name} {version}" for name, version in run.versions.items()) or "unknown" for run in runs],
        ),
        ("folder", [str(run.path) for run in runs]),
    ]
    return table(
        ["fact", *(["value"] if len(runs) == 1 else run_heads(runs))],
        [[text(name), *(text(value) for value in values)] for name, values in rows],
        kind="text",
    )
