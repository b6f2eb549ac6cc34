"""Documentation packages of a Debian-like system as a source of text, fetched without installing them."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.progress import log

_TIMEOUT_S = 300
_NETWORK = ("-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20")


@dataclasses.dataclass(frozen=True)
class Package:
    """A package to look for: a pattern, as names carry versions, and its clean text in MB, roughly."""

    pattern: str
    megabytes: float


# The best prose first.
PACKAGES = (
    Package("anarchism", 11.1),
    Package("dict-gcide", 20.0),
    Package(r"postgresql-doc-\d+", 4.5),
    Package("sqlite3-doc", 3.4),
    Package("git-doc", 2.1),
    Package("debian-policy", 0.5),
    Package("developers-reference", 0.25),
    Package(r"python3\.\d+-doc", 6.0),
    Package(r"linux-doc-\d+(?:\.\d+)?", 15.9),
    Package("openjdk-17-doc", 14.0),
)


def choose_packages(megabytes: float) -> list[Package]:
    """The first packages that together give about ``megabytes`` MB, with a margin for other releases."""
    chosen: list[Package] = []
    for package in PACKAGES:
        if sum(entry.megabytes for entry in chosen) >= 1.1 * megabytes:
            break
        chosen.append(package)
    return chosen


def fetch_packages(wanted: Sequence[Package], folder: Path) -> dict[str, Path]:
    """Download and unpack packages below ``folder``: real name to unpacked folder, in the order asked for.

    Packages that the release does not have are left out.

    Raises:
        UserError: no apt and dpkg here, or nothing can be downloaded.
    """
    for program in ("apt-get", "apt-cache", "dpkg"):
        if shutil.which(program) is None:
            raise UserError(f"no {program} here: this is not a Debian-like system")
    folder = folder.resolve()
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    files = _download(wanted, downloads, ())
    if len(files) < len(wanted) / 2:
        # No package lists yet, or lists so old that the server has moved on.
        options = _refresh_lists(folder)
        files = _download(wanted, downloads, options)
    if not files:
        raise UserError("no package could be downloaded: check the system's package sources and its network")
    unpacked: dict[str, Path] = {}
    for name, file in files.items():
        target = folder / name
        target.mkdir()
        if _run(["dpkg", "-x", str(file), str(target)], downloads).returncode != 0:
            raise UserError(f"cannot unpack {file.name}: check the free disk space and run again")
        unpacked[name] = target
    return unpacked


def resolve_names(wanted: Sequence[Package], names: Sequence[str]) -> list[str]:
    """The available package for each pattern: the highest version where several match."""
    resolved: list[str] = []
    for package in wanted:
        matching = [name for name in names if re.fullmatch(package.pattern, name)]
        if matching:
            resolved.append(max(matching, key=lambda name: [int(part) for part in re.findall(r"\d+", name)]))
    return resolved


def _download(wanted: Sequence[Package], folder: Path, options: Sequence[str]) -> dict[str, Path]:
    listed = _run(["apt-cache", *options, "pkgnames"], folder)
    names = resolve_names(wanted, listed.stdout.split())
    if not names:
        return {}
    # One at a time only when all together fail: a single missing package fails the whole call.
    together = _run(["apt-get", *options, *_NETWORK, "download", *names], folder)
    if together.returncode != 0:
        for name in names:
            _run(["apt-get", *options, *_NETWORK, "download", name], folder)
    found: dict[str, Path] = {}
    for name in names:
        files = sorted(folder.glob(f"{name}_*.deb"))
        if files:
            found[name] = files[-1]
    return found


def _refresh_lists(folder: Path) -> list[str]:
    log("corpus: fetching package lists")
    options: list[str] = []
    if os.geteuid() != 0:
        # The system's lists belong to root: keep lists of our own, for this call only.
        state, cache = folder / "apt-state", folder / "apt-cache"
        (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        options = ["-o", f"Dir::State={state}", "-o", f"Dir::Cache={cache}"]
        options += ["-o", "Dir::State::status=/var/lib/dpkg/status"]
    _run(["apt-get", *options, *_NETWORK, "update"], folder)
    return options


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"`{command[0]}` did not finish within {_TIMEOUT_S} s: check the network") from error
