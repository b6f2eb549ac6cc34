"""The two files of a run over ssh: hostfile and ``.deepspeed_env``, as the deepspeed launcher reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from data_pipeline.errors import UserError
from electra_scale.cluster.slurm import nodes_of, tasks_of_nodes

_LINE = re.compile(r"(\S+)\s+slots=\d+")
_ENVIRONMENT = ".deepspeed_env"


def read_hostfile(path: Path) -> list[str]:
    """The hosts in order; raises UserError for a file or a line that the launcher would refuse too."""
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
            raise UserError(f"{path}, line {number}: {line.strip()!r} is not `NAME slots=N`")
        if found[1].startswith("-"):
            raise UserError(f"{path}, line {number}: {found[1]!r} is an option and not a host's name")
        if found[1] in hosts:
            raise UserError(f"{path}, line {number}: {found[1]} is there twice; give all its slots in one line")
        hosts.append(found[1])
    if not hosts:
        raise UserError(f"the hostfile {path} names no host; give lines `NAME slots=N`")
    return hosts


def exported_variables() -> dict[str, str]:
    """Variables of ``.deepspeed_env`` in the home and in the current folder, which wins; raises UserError for a line
    that is none."""
    found: dict[str, str] = {}
    for folder in (Path.home(), Path()):
        path = folder / _ENVIRONMENT
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            name, equals, value = line.partition("=")
            if not equals or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is None:
                raise UserError(f"{path.absolute()}, line {number}: {line!r} is not NAME=value; deepspeed fails on it")
            found[name] = value
    return found


def hostfile(environment: Mapping[str, str], slots: int | None) -> str:
    """A DeepSpeed hostfile of the job's nodes: ``slots`` ranks on each, or as many as the job has tasks there.

    Raises UserError outside a job.
    """
    if "SLURM_JOB_NODELIST" not in environment:
        raise UserError("hostfile: SLURM_JOB_NODELIST is not set; call it in a job (sbatch, salloc)")
    names = nodes_of(environment["SLURM_JOB_NODELIST"])
    tasks = tasks_of_nodes(environment.get("SLURM_TASKS_PER_NODE", f"1(x{len(names)})"))
    return "".join(
        f"{name} slots={slots if slots is not None else count}\n" for name, count in zip(names, tasks, strict=True)
    )
