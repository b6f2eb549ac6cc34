"""A process that reads a store with this project's loader, and reports seconds, rows, bytes and memory.

``python -m benchmarks.streaming.stream_reader SPEC``, a JSON file: ``store``, ``cache`` (null: the folder is read in
place), ``limit_gb``, ``streams``, ``batch`` (global), ``length``, ``step`` (the first), ``steps`` (0: read for
``seconds``), ``seconds``, ``node`` of ``nodes``, ``noise``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import report


def since_process_start() -> float:
    """Seconds; the kernel gives the start in hundredths."""
    started = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - started


def memory() -> dict[str, int]:
    """Bytes: the peak of resident memory (``VmHWM``), and what is resident now: all, anonymous, of files."""
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS", "RssAnon", "RssFile")}


def main() -> None:
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    from benchmarks.peers.our_loader import default_loader
    from electra_scale.recipe.data import CacheConfig, DataConfig

    imported, before = since_process_start(), memory()
    config = DataConfig(
        store=spec["store"],
        sequence_length=spec["length"],
        streams=spec["streams"] or DataConfig.streams,
        cache=CacheConfig(folder=spec["cache"], limit_gb=spec["limit_gb"]),
    )
    loader = default_loader(config, spec["batch"], seed=1, noise=spec["noise"])
    share = spec["batch"] // spec["nodes"]
    first = spec["step"]
    last = first + (spec["steps"] or 1 << 40)
    feed = loader.feed(first, last, share * spec["node"], share, share, config.mask_share)
    start = time.monotonic()
    checksum = rows = 0
    step = first
    first_batch = 0.0
    while step < last and not (spec["seconds"] and time.monotonic() - start > spec["seconds"]):
        batch = feed.take(step)[0]
        checksum += int(batch.ids.sum())
        rows += len(batch.ids)
        step += 1
        if not first_batch:
            first_batch = since_process_start()
    seconds = time.monotonic() - start
    feed.close()
    report(
        first_batch=first_batch,
        imported=imported,
        seconds=seconds,
        rows=rows,
        sum=checksum,
        samples_of_epoch=loader.samples,
        before=before,
        after=memory(),
        fetched=loader.fetched()[0],
        working_set=loader.working_set(spec["nodes"], config.prefetch_shards),
    )


if __name__ == "__main__":
    main()
