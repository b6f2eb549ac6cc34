"""What a node finds out about itself: versions, source, devices, free space."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from data_pipeline.places.scratch import scratch_folder
from electra_scale.cluster.software import source_hash, versions_of

_PACKAGES = ("torch", "deepspeed", "transformers", "datasets", "pyarrow", "numpy", "electra-scale")
_DRIVER = Path("/sys/module/nvidia/version")
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Space:
    """A file system at a path, in bytes."""

    path: str
    total: int
    free: int


@dataclass(frozen=True)
class NodeFacts:
    """Facts about one node. ``versions`` are those of python, the packages and this program's own source; ``device`` is
    the kind of device, ``devices`` the number that a process sees: GPUs, or cores of a CPU."""

    host: str
    versions: dict[str, str]
    kind: str
    device: str
    devices: int
    temporary: Space
    shared_memory: Space | None
    cache: Space | None


def facts_of_node(cache: str | None) -> NodeFacts:
    """The facts of the node that this process runs on; ``cache`` is the folder for downloaded shards, if any."""
    gpu = uses_gpu()
    versions = versions_of(_PACKAGES)
    versions["source"] = source_hash()
    if gpu:
        versions["driver"] = _DRIVER.read_text().strip() if _DRIVER.is_file() else "unknown"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return NodeFacts(
        platform.node(),
        versions,
        "gpu" if gpu else "cpu",
        torch.cuda.get_device_name(0) if gpu else "CPU core",
        torch.cuda.device_count() if gpu else cores,
        space_at(Path(scratch_folder())),
        space_at(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None,
        space_at(Path(cache).expanduser()) if cache else None,
    )


def uses_gpu() -> bool:
    """Whether a run here would train on GPUs."""
    return os.environ.get("DS_ACCELERATOR") != "cpu" and torch.cuda.is_available()


def space_at(path: Path) -> Space:
    """Free space at a folder, or at its nearest parent if it does not exist yet."""
    existing = path.absolute()
    while not os.path.exists(existing):
        existing = existing.parent
    usage = shutil.disk_usage(existing)
    return Space(str(path), usage.total, usage.free)
