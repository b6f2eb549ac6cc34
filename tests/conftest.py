"""What all tests share: parts of the system that a test needs, and where they come from."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable

import pytest
from hypothesis import settings

from tests.support.fixtures.browser import _chromium, browser
from tests.support.fixtures.builds import mpiexec, small_corpus
from tests.support.fixtures.faults import faulty_s3
from tests.support.fixtures.namespaces import far_hosts
from tests.support.fixtures.places import big, place, told
from tests.support.fixtures.runs import corpus, finished_run, recipe_file, store
from tests.support.fixtures.s3 import s3, s3_server
from tests.support.fixtures.slurm import slurm
from tests.support.fixtures.ssh import ssh_hosts
from tests.support.fixtures.surroundings import refusing

# Nothing is timed: a busy machine takes seconds for what a quiet one does in a moment.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

__all__ = [
    "_chromium",
    "big",
    "browser",
    "corpus",
    "far_hosts",
    "faulty_s3",
    "finished_run",
    "mpiexec",
    "place",
    "recipe_file",
    "refusing",
    "require_part",
    "s3",
    "s3_server",
    "slurm",
    "small_corpus",
    "ssh_hosts",
    "store",
    "told",
]


# While the tests are collected, millions of objects are made that stay: modules, and what libraries keep of themselves.
gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage from now on, and not among what was imported."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a device where none is; ``make gpu`` runs it on a machine that has one."""
    of_device = [item for item in items if item.get_closest_marker("cuda")]
    if not of_device:
        return
    import torch

    if not torch.cuda.is_available():
        for item in of_device:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device: make gpu on a machine that has one"))


@pytest.fixture
def require_part() -> Callable[[bool, str], None]:
    """Skip a test whose part of the system is missing, with the line that installs it; fail where CI promises it."""

    def require(present: bool, install: str) -> None:
        if present:
            return
        if os.environ.get("REQUIRE_PARTS") == "1":
            pytest.fail(f"a part that this test needs is missing: {install}")
        pytest.skip(f"needs a part of the system: {install}")

    return require


@pytest.fixture
def c_compiler(require_part: Callable[[bool, str], None]) -> None:
    """What a processor's kernels are made with."""
    require_part(shutil.which("cc") is not None, "apt-get install gcc")
