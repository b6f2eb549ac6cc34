"""``electra-data report``: one page that shows what a store holds, with plots; it opens without a network."""

from __future__ import annotations

import collections
import html
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from data_pipeline.places.open import local_copy, open_place
from data_pipeline.places.place import Place
from data_pipeline.progress import counted
from data_pipeline.read.passed_over import shown
from data_pipeline.report.describe import source_labels
from data_pipeline.report.plots import check_plots, frequency_plot, length_plot, removed_plot
from data_pipeline.store.left_out import LEFT_OUT_NAME, LeftOut, load_left_out
from data_pipeline.store.manifest import SPLITS, Manifest, ShardEntry, load_manifest
from data_pipeline.store.shard import open_shard
from data_pipeline.store.token_counts import load_token_counts
from data_pipeline.tokenize.spelling import Spelling
from data_pipeline.tokenize.tokenizer import load_with_roles

# Each thread holds one shard, as a temporary file if the store is remote.
_THREADS = min(4, os.cpu_count() or 1)
_MOST_SHARDS_SHOWN = 1000
_MOST_FILES_SHOWN = 100
_PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
_COVER_RANKS = (10, 100, 1000, 10_000, 100_000)
_MOST_FREQUENT = 30
# Counts of what was read or is in the store; the others count what was dropped.
_TOTALS = {
    "bytes_read",
    "characters",
    "documents",
    "documents_heldout",
    "documents_read",
    "tokens",
    "tokens_heldout",
    "unknown_tokens",
    "words",
}

_STYLE = """
body { font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1f2429; background: #fff;
  max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #d5dae0; padding-bottom: .2rem; }
p.print { color: #5a636d; margin-top: .2rem; overflow-wrap: anywhere; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem; margin: 1.5rem 0; }
dl.facts div { background: #f4f6f8; border-radius: .4rem; padding: .6rem .8rem; }
dl.facts dt { color: #5a636d; font-size: .85rem; }
dl.facts dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
div.wide { overflow-x: auto; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid #e4e7eb; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
th { color: #5a636d; font-weight: 600; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .88rem; }
pre { background: #f4f6f8; padding: .8rem; overflow-x: auto; }
summary { cursor: pointer; }
"""

Lengths = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def write_report(store: str | Path, out: Path) -> None:
    """Write the report of a store, a folder or ``s3://bucket/prefix``, to ``out``: the same bytes each time.

    Shards are read one by one and none is kept.

    Raises:
        UserError: matplotlib is missing; not a finished store, or a damaged one; the object store does not
            answer; ``out`` can't be written.
    """
    check_plots()
    place = open_place(store)
    manifest = load_manifest(place)
    lengths = _lengths(place, manifest)
    counts = load_token_counts(place, manifest)
    tokenizer, roles = load_with_roles(store)
    spelling = Spelling(tokenizer)
    tokens = tokenizer.get_vocab(with_added_tokens=True)
    special = len(set(roles.names()))
    sections = [
        _summary(place, manifest),
        _length_section(lengths),
        _frequency_section(
            manifest, counts, {index: spelling.shown(token) for token, index in tokens.items()}, special
        ),
        _removed_section(manifest),
        _left_out_section(load_left_out(place)),
        _source_section(manifest),
        _settings_section(manifest),
        _shard_section(manifest),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Store {html.escape(place.url)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, page.encode())
    except OSError as error:
        raise UserError(f"cannot write the report {out}: {error.strerror}; choose another --out") from error


def _lengths(place: Place, manifest: Manifest) -> dict[str, Lengths]:
    """For each split that has documents: the distinct lengths in tokens and how many documents have each."""
    found = {split: collections.Counter[int]() for split in SPLITS}
    threads = ThreadPoolExecutor(_THREADS)
    try:
        results = threads.map(lambda entry: _shard_lengths(place, entry, manifest), manifest.shards)
        for entry, (values, documents) in zip(manifest.shards, results, strict=True):
            found[entry.split].update(dict(zip(values.tolist(), documents.tolist(), strict=True)))
    finally:
        threads.shutdown(cancel_futures=True)
    return {
        split: (np.array(sorted(counter), np.int64), np.array([counter[value] for value in sorted(counter)], np.int64))
        for split, counter in found.items()
        if counter
    }


def _shard_lengths(place: Place, entry: ShardEntry, manifest: Manifest) -> Lengths:
    with local_copy(place, entry.name) as path:
        shard = open_shard(path, manifest.tokenizer.fingerprint, f"{place.url}/{entry.name}")
        values, documents = np.unique(np.diff(shard.offsets), return_counts=True)
        return values, documents.astype(np.int64)


def _summary(place: Place, manifest: Manifest) -> str:
    counts = manifest.counts
    tokens = counts.get("tokens", 0)
    everything = tokens + counts.get("tokens_heldout", 0)
    facts = [
        ("documents to train on", f"{counts.get('documents', 0):,}"),
        ("tokens to train on", f"{tokens:,}"),
        ("documents held out", f"{counts.get('documents_heldout', 0):,}"),
        ("tokens held out", f"{counts.get('tokens_heldout', 0):,}"),
        ("vocabulary", f"{manifest.tokenizer.vocab_size:,}"),
        ("unknown tokens", f"{100 * counts.get('unknown_tokens', 0) / max(1, everything):.4f} %"),
    ]
    if counts.get("words"):
        facts.append(("tokens per word (fertility)", f"{tokens / counts['words']:.3f}"))
    if counts.get("characters") and tokens:
        facts.append(("characters per token", f"{counts['characters'] / tokens:.2f}"))
    facts.append(("shards", f"{len(manifest.shards):,}, {_size(sum(shard.bytes for shard in manifest.shards))}"))
    cards = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts)
    return (
        f"<h1>{html.escape(place.url)}</h1>\n<p class='print'>store <code>{manifest.fingerprint}</code><br>"
        f"tokenizer <code>{manifest.tokenizer.fingerprint}</code></p>\n<dl class='facts'>{cards}</dl>"
    )


def _length_section(lengths: Mapping[str, Lengths]) -> str:
    if not lengths:
        return "<h2>Document lengths</h2>\n<p>The store holds no document.</p>"
    head = ["tokens", *(_percentile_name(percentile) for percentile in _PERCENTILES), "mean"]
    rows = []
    for split, (values, documents) in lengths.items():
        cells = [f"{_percentile(values, documents, percentile):,}" for percentile in _PERCENTILES]
        rows.append([split, *cells, f"{float(values @ documents) / int(documents.sum()):,.1f}"])
    return f"<h2>Document lengths</h2>\n<figure>{length_plot(lengths)}</figure>\n{_table(head, rows)}"


def _percentile_name(percentile: int) -> str:
    return {0: "shortest", 50: "median", 100: "longest"}.get(percentile, f"{percentile} %")


def _percentile(values: npt.NDArray[np.int64], documents: npt.NDArray[np.int64], percentile: int) -> int:
    """The least length that at least this share of the documents does not exceed."""
    ends = np.cumsum(documents)
    place = min(len(values) - 1, int(np.searchsorted(ends, percentile / 100 * int(ends[-1]))))
    return int(values[place])


def _frequency_section(
    manifest: Manifest, counts: npt.NDArray[np.int64], tokens: Mapping[int, str], special: int
) -> str:
    order = np.argsort(-counts, kind="stable")
    used = counts[order][: int((counts > 0).sum())]
    total = int(used.sum())
    if not total:
        return ""
    unused = len(counts) - len(used)
    covered = np.cumsum(used)
    ranks = [rank for rank in _COVER_RANKS if rank < len(used)]
    rows = [[f"{rank:,}", f"{100 * int(covered[rank - 1]) / total:.2f} %"] for rank in ranks]
    rows.append([f"all {len(used):,} that occur", "100 %"])
    frequent = [
        [_shown(tokens.get(int(index), "?")), f"{int(counts[index]):,}", f"{100 * int(counts[index]) / total:.2f} %"]
        for index in order[: min(_MOST_FREQUENT, len(used))]
    ]
    return (
        f"<h2>Token frequency</h2>\n<figure>{frequency_plot(used)}</figure>\n"
        f"<p>{unused:,} of {len(counts):,} entries of the vocabulary never occur in the training split; "
        f"{special} of them are special tokens, which no text gives.</p>\n"
        f"{_table(['most frequent tokens', 'share of the text'], rows)}\n"
        + _folded(f"The {len(frequent)} most frequent tokens", _table(["token", "occurrences", "share"], frequent))
    )


def _shown(token: str) -> str:
    return "".join(character if character.isprintable() else f"\\u{{{ord(character):x}}}" for character in token)


def _removed_section(manifest: Manifest) -> str:
    removed = removed_counts(manifest)
    read = manifest.counts.get("documents_read", 0)
    kept = manifest.counts.get("documents", 0) + manifest.counts.get("documents_heldout", 0)
    return (
        "<h2>What cleaning removed</h2>\n"
        f"<p>{read:,} documents were read ({_size(manifest.counts.get('bytes_read', 0))}); "
        f"{kept:,} are in the store ({100 * kept / max(1, read):.2f} %).</p>\n"
        + (f"<figure>{removed_plot(removed)}</figure>" if removed else "")
    )


def _left_out_section(found: Sequence[LeftOut]) -> str:
    if not found:
        return ""
    lines = [
        f"source {part.source}: {part.left_out:,} of {part.records:,} records ({100 * part.share:.3g} %)"
        for part in found
    ]
    rows = [
        [f"{part.source}: {shown(file.name)}", file.what, f"{file.count:,}", file.example]
        for part in found
        for file in sorted(part.files, key=lambda file: -file.count)
    ]
    most = rows[:_MOST_FILES_SHOWN]
    more = (
        f"\n<p>... and {len(rows) - len(most):,} more; {LEFT_OUT_NAME} lists them.</p>" if len(rows) > len(most) else ""
    )
    return (
        f"<h2>Records that gave no text</h2>\n<p>{html.escape('; '.join(lines))}.</p>\n"
        f"{_table(['file', 'reason', 'records', 'the first one'], most)}{more}"
    )


def removed_counts(manifest: Manifest) -> dict[str, int]:
    """The counts of what was dropped, in the order in which the reasons are tried on a document."""
    clean = manifest.settings.get("clean")
    filters = clean.get("filters") if isinstance(clean, dict) else None
    named = [f"filter_{name}" for name in filters] if isinstance(filters, list) else []
    order = ["bad_lines", "skipped", "too_short", "too_long", *named]
    last = ["language", "duplicates", "near_duplicates", "without_tokens"]
    reasons = [name for name in manifest.counts if name not in _TOTALS]
    others = [name for name in sorted(reasons) if name not in (*order, *last)]
    return {name: manifest.counts[name] for name in (*order, *others, *last) if name in reasons}


def _source_section(manifest: Manifest) -> str:
    rows = []
    for label in source_labels(manifest):
        shards = [shard for shard in manifest.shards if shard.source == label]
        train = [shard for shard in shards if shard.split == "train"]
        tokens = sum(shard.tokens for shard in train)
        everything = sum(shard.tokens for shard in manifest.split("train"))
        rows.append(
            [
                label,
                f"{sum(shard.rows for shard in train):,}",
                f"{tokens:,}",
                f"{100 * tokens / max(1, everything):.2f} %",
                f"{sum(shard.rows for shard in shards if shard.split == 'heldout'):,}",
                f"{len(shards):,}",
                _size(sum(shard.bytes for shard in shards)),
            ]
        )
    head = ["source", "documents", "tokens", "share of tokens", "held-out documents", "shards", "size"]
    return f"<h2>Sources</h2>\n{_table(head, rows)}"


def _settings_section(manifest: Manifest) -> str:
    text = json.dumps(manifest.settings, indent=2, sort_keys=True, ensure_ascii=False)
    return f"<h2>Settings</h2>\n{_folded('Settings of the build', f'<pre>{html.escape(text)}</pre>')}"


def _shard_section(manifest: Manifest) -> str:
    shown = manifest.shards[:_MOST_SHARDS_SHOWN]
    rows = [
        [shard.name, shard.split, shard.source, f"{shard.rows:,}", f"{shard.tokens:,}", _size(shard.bytes)]
        for shard in shown
    ]
    left = len(manifest.shards) - len(shown)
    more = f"\n<p>... and {left:,} more; the manifest lists all.</p>" if left else ""
    head = ["shard", "split", "source", "documents", "tokens", "size"]
    return f"<h2>Shards</h2>\n{_folded(counted(len(manifest.shards), 'shard'), _table(head, rows) + more)}"


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>\n{content}\n</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class='wide'><table><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"


def _size(count: int) -> str:
    """A number of bytes, with the unit that makes it short."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,} bytes"
