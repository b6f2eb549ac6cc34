"""Which program a process runs: the versions of packages, and a hash of this program's own source."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterable
from pathlib import Path

PACKAGES = ("electra-scale", "torch", "deepspeed", "transformers", "datasets", "pyarrow", "tokenizers", "numpy")
"""Those that decide what a run computes."""

_SOURCE = ("data_pipeline", "electra_scale")


def versions_of(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """The versions of python and of packages, ``missing`` for one that is not installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def source_hash() -> str:
    """Short hash of this program's own source: two checkouts of the same version may still differ."""
    digest = hashlib.sha256()
    for package in _SOURCE:
        # Where it is imported from: of two checkouts on a path each may give one of the packages.
        found = importlib.util.find_spec(package)
        for folder in map(Path, (found.submodule_search_locations if found else None) or ()):
            for file in sorted(folder.rglob("*.py")):
                digest.update(f"{package}/{file.relative_to(folder)}".encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:10]
