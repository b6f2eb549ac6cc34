"""When a batch script requeues its job, and when it gives up."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from electra_scale.commands.requeue import REQUEUE, decide, main
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.state import RunState
from electra_scale.train.lifecycle.status import Status, write_status


def saved(run: Path, step: int, finished: bool = False) -> None:
    """Write a checkpoint of which only the state is real."""
    (run / "checkpoints" / checkpoint.tag_of(step)).mkdir(parents=True)
    state = RunState(step=step, phase="joint", world_size=2, tokenizer="t", loader={}, finished=finished)
    checkpoint.finish(run / "checkpoints", state, keep=9)


def test_a_finished_run_is_not_requeued_whatever_its_code(tmp_path: Path) -> None:
    saved(tmp_path, 12, finished=True)
    for code in (0, 1, 2, 137):
        assert decide(tmp_path, "1", code, 3).action == "finished"


def test_a_finished_run_that_was_resumed_with_more_steps_is_not_finished_before_they_are_made(tmp_path: Path) -> None:
    saved(tmp_path, 12, finished=True)
    write_status(tmp_path, Status("running", 12, 20))
    assert decide(tmp_path, "1", 137, 3).action == "requeue"
    saved(tmp_path, 20, finished=True)
    write_status(tmp_path, Status("finished", 20, 20))
    assert decide(tmp_path, "1", 0, 3).action == "finished"


@pytest.mark.parametrize("code", [0, 1, 137, 143])
def test_an_unfinished_run_is_requeued_after_a_stop_and_after_a_crash(tmp_path: Path, code: int) -> None:
    saved(tmp_path, 4)
    decision = decide(tmp_path, "1", code, 3)
    assert decision.action == "requeue"
    assert "step 4" in decision.line


def test_an_error_that_needs_its_user_is_not_repeated(tmp_path: Path) -> None:
    saved(tmp_path, 4)
    assert decide(tmp_path, "1", 2, 3).action == "stop"


def test_starts_without_a_newer_checkpoint_are_bounded(tmp_path: Path) -> None:
    assert [decide(tmp_path, "1", 0, 3).action for _ in range(3)] == ["requeue", "requeue", "stop"]


def test_progress_starts_the_count_again_and_so_does_a_new_job(tmp_path: Path) -> None:
    def actions(job: str, number: int) -> list[str]:
        return [decide(tmp_path, job, 0, 3).action for _ in range(number)]

    assert actions("1", 2) == ["requeue", "requeue"]
    saved(tmp_path, 4)
    assert actions("1", 4) == ["requeue", "requeue", "requeue", "stop"]
    assert actions("2", 3) == ["requeue", "requeue", "stop"]


def test_a_damaged_count_is_named(tmp_path: Path) -> None:
    for content in ("{", '{"step": "1"}', '{"idle": null}', "[]"):
        (tmp_path / "requeue.json").write_text(content)
        with pytest.raises(UserError, match=r"requeue\.json cannot be read"):
            decide(tmp_path, "1", 0, 3)


def test_the_command_gives_its_decision_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["decide", str(tmp_path), "--job", "1", "--code", "0", "--most_idle", "2"]
    assert [main(command), main(command)] == [REQUEUE, 1]
    saved(tmp_path, 9, finished=True)
    assert main(command) == 0
    assert "finished at step 9" in capsys.readouterr().out


def test_the_run_folder_is_the_recipes_or_the_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text("run_dir: runs/here\n")
    config = ["folder", "--config", str(tmp_path / "recipe.yaml")]
    assert main(config) == 0
    assert main([*config, "--run_dir", "runs/there"]) == 0
    assert capsys.readouterr().out == "runs/here\nruns/there\n"
    assert main([*config, "--schedule.stepz", "3"]) == 2
