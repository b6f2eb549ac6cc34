"""A build as SLURM starts it: one rank of MPI for each task of a job step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.fixtures.builds import build, command, store_bytes, write_config
from tests.support.fixtures.slurm import SlurmCluster

pytestmark = pytest.mark.slow


def test_srun_on_two_nodes_gives_the_bytes_of_one_process(
    slurm: SlurmCluster, small_corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "alone").mkdir()
    build(write_config(small_corpus, tmp_path / "alone"), "--workers=1")
    config = write_config(small_corpus, tmp_path)
    launcher = ["srun", "--mpi=pmi2", "--nodes=2", "--ntasks=3", "--chdir", os.getcwd()]
    result = slurm.run(*launcher, *command(config), timeout=180)
    assert result.returncode == 0, result.stderr + slurm.logs()
    assert result.stderr.count("built ") == 1
    assert store_bytes(tmp_path / "store") == store_bytes(tmp_path / "alone/store")
