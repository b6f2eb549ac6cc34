"""Ranks from SLURM's variables, nodes and tasks from its short forms, and the hostfile of a job."""

from __future__ import annotations

import pytest

from data_pipeline.errors import UserError
from electra_scale.cli import main
from electra_scale.cluster.hostfile import hostfile_of_job
from electra_scale.cluster.slurm import adopt_ranks, nodes_of, tasks_of_nodes

STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "localhost,n[2-3]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


@pytest.mark.parametrize(
    ("nodelist", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3,07],gpu2", ["n1", "n2", "n3", "n07", "gpu2"]),
        ("r[1-2]n[08-10]-ib", [f"r{rack}n{node}-ib" for rack in (1, 2) for node in ("08", "09", "10")]),
        ("a-b1,c[5]", ["a-b1", "c5"]),
    ],
)
def test_short_forms_name_every_node_in_order(nodelist: str, names: list[str]) -> None:
    assert nodes_of(nodelist) == names


def test_counts_of_tasks_are_one_for_each_node() -> None:
    assert tasks_of_nodes("2(x3),1,12(x2)") == [2, 2, 2, 1, 12, 12]


def test_a_task_of_a_step_becomes_a_rank() -> None:
    environment = dict(STEP)
    assert adopt_ranks(environment)
    given = {name: environment[name] for name in environment.keys() - STEP.keys()}
    port = given.pop("MASTER_PORT")
    assert given == {
        "RANK": "3",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
    }
    assert 15_000 <= int(port) < 31_000


def test_a_step_of_which_only_some_variables_are_here_is_refused_by_their_names() -> None:
    for name in STEP.keys() - {"SLURM_STEP_NUM_TASKS"}:
        with pytest.raises(UserError, match=f"{name} is not set"):
            adopt_ranks({key: value for key, value in STEP.items() if key != name})


def test_every_rank_finds_the_same_port_and_other_jobs_and_steps_others() -> None:
    def port(**changes: str) -> str:
        environment = STEP | changes
        adopt_ranks(environment)
        return environment["MASTER_PORT"]

    assert port(SLURM_PROCID="0", SLURM_NODEID="0") == port()
    assert len({port(), port(SLURM_STEP_ID="1"), port(SLURM_JOB_ID="4712")}) == 3


def test_variables_that_the_user_or_a_launcher_has_set_are_kept() -> None:
    environment = STEP | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "1234"}
    assert adopt_ranks(environment)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("10.0.0.7", "1234")
    for name in ("RANK", "OMPI_COMM_WORLD_RANK"):
        environment = STEP | {name: "0"}
        assert not adopt_ranks(environment)
        assert environment == STEP | {name: "0"}


def test_a_batch_script_and_a_single_task_get_no_ranks() -> None:
    batch = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
    for environment in (batch, batch | {"SLURM_STEP_NUM_TASKS": "1"}):
        assert not adopt_ranks(dict(environment))


def test_a_task_with_one_device_of_its_own_uses_device_0() -> None:
    environment = STEP | {"CUDA_VISIBLE_DEVICES": "1"}
    adopt_ranks(environment)
    assert environment["LOCAL_RANK"] == "0"
    environment = STEP | {"CUDA_VISIBLE_DEVICES": "0,1"}
    adopt_ranks(environment)
    assert environment["LOCAL_RANK"] == "1"


def test_a_first_node_that_cannot_be_resolved_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"nowhere\.invalid, cannot be resolved; set MASTER_ADDR"):
        adopt_ranks(STEP | {"SLURM_STEP_NODELIST": "nowhere.invalid,n[2-3]"})


def test_a_hostfile_has_the_tasks_of_the_job_or_the_given_slots() -> None:
    job = {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_TASKS_PER_NODE": "2(x2),1"}
    assert hostfile_of_job(job, None) == "n1 slots=2\nn2 slots=2\nn3 slots=1\n"
    assert hostfile_of_job(job, 8) == "n1 slots=8\nn2 slots=8\nn3 slots=8\n"
    with pytest.raises(UserError, match="there is no SLURM job"):
        hostfile_of_job({}, None)


def test_the_command_prints_a_hostfile(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    assert main(["hostfile", "--slots", "4"]) == 0
    assert capsys.readouterr().out == "n1 slots=4\nn2 slots=4\n"
