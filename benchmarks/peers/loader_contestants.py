"""Contestants of the loader, each in a process of its own.

``loader_contestants.py prepare NAME SPEC`` writes a peer's store, ``run NAME SPEC`` reads it and reports how fast.

SPEC is a JSON file: ``samples`` (an .npy of uint16, N x S), ``remote`` (the store's folder), ``cache`` (a local folder,
empty or not there), ``batch``, ``workers`` (processes beside the main one), ``epochs``, ``seconds`` (when to leave off;
0: read whole epochs), ``seed``, ``shard_bytes``. Every contestant gives int64 tensors of batch x S and sees every
sample once an epoch; the sum of all ids proves it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import report

Epochs = Callable[[int], Iterable[Any]]
"""Batches of an epoch."""


def loader_options(spec: dict[str, Any]) -> dict[str, Any]:
    """Options of a torch DataLoader that keep its workers busy and alive."""
    options: dict[str, Any] = {"batch_size": spec["batch"], "num_workers": spec["workers"]}
    if spec["workers"]:
        options |= {"persistent_workers": True, "prefetch_factor": 4}
    return options


def stack(rows: Sequence[np.ndarray]) -> Any:
    """One int64 tensor of rows of uint16; quicker than the default, which makes a tensor of each row."""
    import torch

    return torch.from_numpy(np.stack(rows).astype(np.int64))


def stack_ids(rows: Sequence[dict[str, np.ndarray]]) -> Any:
    """The same for samples that are dictionaries."""
    return stack([row["ids"] for row in rows])


def table_to_ids(table: Any, length: int) -> Any:
    """The same for an Arrow table that holds a batch, as a list of rows that are lists themselves."""
    import pyarrow as pa
    import torch

    ids = table.column("ids").combine_chunks()
    while not pa.types.is_integer(ids.type):
        ids = ids.flatten()
    return torch.from_numpy(ids.to_numpy().reshape(-1, length).astype(np.int64))


def stack_tensors(rows: Sequence[Any]) -> Any:
    """The same for tensors."""
    import torch

    return torch.stack(list(rows)).to(torch.int64)


def import_streaming() -> None:
    """Its vision data sets need torchvision, which may not fit a torch without CUDA; nothing here uses them."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        sys.modules["streaming.vision"] = types.ModuleType("streaming.vision")
    import streaming  # noqa: F401


def prepare_streaming(spec: dict[str, Any]) -> None:
    from streaming import MDSWriter

    samples = np.load(spec["samples"])
    columns = {"ids": f"ndarray:uint16:{samples.shape[1]}"}
    with MDSWriter(out=spec["remote"], columns=columns, size_limit=spec["shard_bytes"]) as writer:
        for row in samples:
            writer.write({"ids": row})


def open_streaming(spec: dict[str, Any]) -> Epochs:
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    data = StreamingDataset(
        remote=spec["remote"],
        local=spec["cache"],
        shuffle=True,
        shuffle_seed=spec["seed"],
        batch_size=spec["batch"],
        num_canonical_nodes=1,
    )
    loader = DataLoader(data, collate_fn=stack_ids, **loader_options(spec))
    return lambda epoch: loader


def close_streaming() -> None:
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()


def token_block(bounds: tuple[int, int], path: str) -> Any:
    """Rows ``bounds`` of the samples as one flat tensor: an item of litdata's writer."""
    import torch

    return torch.from_numpy(np.load(path, mmap_mode="r")[slice(*bounds)].reshape(-1).copy())


def prepare_litdata(spec: dict[str, Any]) -> None:
    from litdata import TokensLoader, optimize

    count = len(np.load(spec["samples"], mmap_mode="r"))
    optimize(
        partial(token_block, path=spec["samples"]),
        [(start, min(start + 512, count)) for start in range(0, count, 512)],
        output_dir=spec["remote"],
        chunk_bytes=spec["shard_bytes"],
        item_loader=TokensLoader(),
        num_workers=1,
        verbose=False,
    )


def open_litdata(spec: dict[str, Any]) -> Epochs:
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    data = StreamingDataset(
        f"local:{spec['remote']}",
        cache_dir=spec["cache"],
        item_loader=TokensLoader(block_size=spec["length"]),
        shuffle=True,
        seed=spec["seed"],
        max_cache_size="25GB",
        # Its default shuffles within 256 neighbours; this is nearer to what the others do, and no slower.
        item_shuffle_window="full",
    )
    loader = StreamingDataLoader(data, collate_fn=stack_tensors, **loader_options(spec))
    return lambda epoch: loader


def prepare_datasets(spec: dict[str, Any]) -> None:
    import datasets

    samples = np.load(spec["samples"])
    features = datasets.Features({"ids": datasets.Sequence(datasets.Value("uint16"), length=samples.shape[1])})
    data = datasets.Dataset.from_dict({"ids": samples}, features=features)
    shards = max(8, samples.nbytes // spec["shard_bytes"])
    Path(spec["remote"]).mkdir(parents=True)
    for index in range(shards):
        part = data.shard(shards, index, contiguous=True)
        part.to_parquet(f"{spec['remote']}/part-{index:05d}.parquet")


def open_datasets(spec: dict[str, Any]) -> Epochs:
    import datasets
    from torch.utils.data import DataLoader

    files = sorted(str(path) for path in Path(spec["remote"]).glob("*.parquet"))
    data = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=spec["cache"])
    # Batches as Arrow tables: of the formats tried (none, numpy, torch, arrow; by row and by batch) the quickest.
    data = data.shuffle(seed=spec["seed"], buffer_size=10_000).with_format("arrow").batch(spec["batch"])
    loader = DataLoader(
        data, collate_fn=partial(table_to_ids, length=spec["length"]), **{**loader_options(spec), "batch_size": None}
    )

    def epochs(epoch: int) -> Iterable[Any]:
        data.set_epoch(epoch)
        return loader

    return epochs


def open_electra_scale(spec: dict[str, Any]) -> Epochs:
    """This project's loader; ``noise``: make the masks and random numbers of the batches too."""
    from benchmarks.peers.our_loader import epochs_of

    return epochs_of(spec)


PREPARE: dict[str, Callable[[dict[str, Any]], None]] = {
    "mosaicml-streaming": prepare_streaming,
    "litdata": prepare_litdata,
    "datasets": prepare_datasets,
}
OPEN: dict[str, Callable[[dict[str, Any]], Epochs]] = {
    "mosaicml-streaming": open_streaming,
    "litdata": open_litdata,
    "datasets": open_datasets,
    "electra-scale": open_electra_scale,
    "electra-scale, masks and noise": open_electra_scale,
}
CLOSE: dict[str, Callable[[], None]] = {"mosaicml-streaming": close_streaming}


def consume(batches: Iterable[Any], batch: int, length: int, seconds: float) -> dict[str, float]:
    """Read an epoch, or for so many ``seconds`` from the first batch on; check every batch's shape and type."""
    import torch

    samples = total = 0
    first = 0.0
    start = time.perf_counter()
    for ids in batches:
        if ids.dtype != torch.int64 or ids.shape[1:] != (length,) or ids.shape[0] > batch:
            sys.exit(f"a batch has type {ids.dtype} and shape {tuple(ids.shape)}")
        # Touches every token, as a training step would, and costs next to nothing.
        total += int(ids.sum())
        samples += ids.shape[0]
        if not first:
            first = time.perf_counter() - start
            of_first = ids.shape[0]
        elif seconds and time.perf_counter() - start - first > seconds:
            break
    took = time.perf_counter() - start
    # Without the first batch: what comes once, however long the epoch.
    steady = (samples - of_first) / max(took - first, 1e-9)
    return {"samples": samples, "sum": total, "seconds": took, "first": first, "steady": steady}


def run(name: str, spec: dict[str, Any]) -> None:
    """Epoch 0 finds the cache empty, later ones find it full."""
    import torch  # noqa: F401  imported before the clock starts, like the contestant's own library

    if name != "mosaicml-streaming":
        __import__(name if name in ("litdata", "datasets") else "benchmarks.peers.our_loader")
    start = time.perf_counter()
    epochs = OPEN[name](spec)
    opened = time.perf_counter() - start
    found = [consume(epochs(epoch), spec["batch"], spec["length"], spec["seconds"]) for epoch in range(spec["epochs"])]
    found[0]["seconds"] += opened
    found[0]["first"] += opened
    report(epochs=found)


def main() -> None:
    action, name, path = sys.argv[1:]
    spec = json.loads(Path(path).read_text())
    if name == "mosaicml-streaming":
        import_streaming()
    close = CLOSE.get(name, lambda: None)
    close()
    try:
        if action == "prepare":
            shutil.rmtree(spec["remote"], ignore_errors=True)
            PREPARE[name](spec)
        else:
            run(name, spec)
    finally:
        close()


if __name__ == "__main__":
    main()
