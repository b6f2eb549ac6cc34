"""The two files by which the deepspeed launcher starts a run over ssh: the hostfile and ``.deepspeed_env``.

A hostfile has a line ``NAME slots=N`` for each host. ``.deepspeed_env`` has a line ``NAME=value`` for each variable to
export on the hosts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from data_pipeline.errors import UserError
from electra_scale.cluster.slurm import tasks_of_job

_LINE = re.compile(r"(\S+)\s+slots=\d+")
_ENVIRONMENT = ".deepspeed_env"


def hostfile_of_job(environment: Mapping[str, str], slots: int | None) -> str:
    """The text of a hostfile for a SLURM job: ``slots`` on each node, by default as many as the job has tasks there.

    Raises UserError outside a job.
    """
    tasks = tasks_of_job(environment)
    if tasks is None:
        raise UserError(
            "hostfile: there is no SLURM job (SLURM_JOB_NODELIST is not set); call it in one (sbatch, salloc)"
        )
    return "".join(f"{name} slots={count if slots is None else slots}\n" for name, count in tasks.items())


def read_hostfile(path: Path) -> list[str]:
    """The hosts of a hostfile, in order; raises UserError for a file or a line that the launcher would refuse too."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the hostfile {path} cannot be read ({error}); give one with lines `NAME slots=N`") from error
    hosts: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        found = _LINE.match(line.strip())
        if found is None:
            raise UserError(f"{path}, line {number}: {line.strip()!r} is not of the form `NAME slots=N`")
        if found[1].startswith("-"):
            raise UserError(f"{path}, line {number}: {found[1]!r} is an option of ssh and not a host name")
        if found[1] in hosts:
            raise UserError(f"{path}, line {number}: {found[1]} is named twice; give all its slots in one line")
        hosts.append(found[1])
    if not hosts:
        raise UserError(f"the hostfile {path} names no host; give lines `NAME slots=N`")
    return hosts


def deepspeed_env() -> dict[str, str]:
    """The variables of ``.deepspeed_env`` in the home and in the current folder; the latter's take precedence.

    Raises UserError for a line on which the launcher would fail.
    """
    variables: dict[str, str] = {}
    for folder in (Path.home(), Path()):
        path = folder / _ENVIRONMENT
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            name, equals, value = line.partition("=")
            if not equals or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None:
                raise UserError(f"{path.absolute()}, line {number}: {line!r} is not NAME=value; deepspeed fails on it")
            variables[name] = value
    return variables
