"""A launch by MPI is recognized by the environment alone, and nothing else is taken for one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from data_pipeline.build.mpi import Launch, launched


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "2"}, Launch(3, 2)),
        ({"PMI_SIZE": "4", "PMI_RANK": "0"}, Launch(4, 0)),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, None),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "7"}, Launch(8, 7)),
        # Inside a batch script, and in a step of one process.
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        # mpirun inside a step of one process.
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "PMI_SIZE": "2", "PMI_RANK": "1"}, Launch(2, 1)),
        ({"PMI_SIZE": "many", "PMI_RANK": "0"}, None),
    ],
)
def test_a_launch_is_recognized_by_the_environment(environment: dict[str, str], expected: Launch | None) -> None:
    assert launched(environment) == expected


def test_mpi4py_is_not_imported_when_nothing_was_launched() -> None:
    lines = [
        "import sys",
        "from data_pipeline.cli import main",
        "code = main(['build', '--out', 'x'])",
        "assert 'mpi4py' not in sys.modules",
        "sys.exit(code)",
    ]
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "sources is []" in result.stderr
