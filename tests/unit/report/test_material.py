"""What a report reads of a run folder: times, alarms, scores, what differs, and a note for what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from electra_scale.report.material import differences, read_runs
from electra_scale.report.summary import facts, paragraph, stands_out, tokens
from electra_scale.report.time_spent import PARTS, time_spent
from tests.unit.report.conftest import LOG, MakeRun, full_rows, row, write_scores


def test_the_log_gives_starts_times_and_what_stands_out(make_run: MakeRun) -> None:
    change = {"step": 50, "setting": "optimizer.weight_decay", "from": 0.01, "to": 0.5}
    folder = make_run(rows=full_rows(), log=LOG)
    (folder / "changes.jsonl").write_text(json.dumps(change) + "\n")
    [run] = read_runs([folder])
    assert [(attempt.step, attempt.ranks, attempt.device) for attempt in run.log.attempts] == [
        (0, 2, "cpu"),
        (50, 2, "cpu"),
    ]
    assert (run.log.running.total_seconds(), run.log.stopped.total_seconds()) == (240, 3600)
    assert stands_out(run) == [
        "Alarm at step 20: the weights explode <b>now</b>.",
        "1 step skipped, whose loss or gradient was not finite, the first at step 31.",
        "1 restart, from step 50: the triangle under the plots.",
        "At step 50 optimizer.weight_decay was changed from 0.01 to 0.5.",
    ]
    assert tokens(run) == 100 * 8 * 32 * 0.75


def test_time_is_shared_out_between_steps_waiting_the_rest_and_pauses(make_run: MakeRun) -> None:
    [run] = read_runs([make_run(rows=full_rows(), log=LOG)])
    found = time_spent(run)
    # 100 steps of 256 positions at 256 positions/s, a quarter of it waiting; 240 s in all.
    assert found is not None
    assert found.seconds == [0.0, 0.0, 0.0, 0.0, 75.0, 25.0, 140.0, 3600.0]
    [silent] = read_runs([make_run("silent", rows=full_rows())])
    assert time_spent(silent) is None


def test_the_time_of_steps_is_split_as_their_rows_say(make_run: MakeRun) -> None:
    shares = {"speed__forward": 0.25, "speed__backward": 0.25, "speed__exchange": 0.125, "speed__optimizer": 0.0625}
    [run] = read_runs([make_run(rows=[row(step, **shares) for step in range(1, 101)], log=LOG)])
    found = time_spent(run)
    assert found is not None
    assert dict(zip(PARTS, found.seconds, strict=True)) == {
        "forward": 25.0,
        "backward": 25.0,
        "between ranks": 12.5,
        "update": 6.25,
        "rest of the steps": 6.25,
        "waiting for data": 25.0,
        "evaluation, saving, start-up": 140.0,
        "not running": 3600.0,
    }


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"state": "finished"}, "It finished at step 100 of 100, and has read"),
        ({"state": "stopped", "step": 60, "reason": "a signal"}, "It was stopped at step 60 of 100 (a signal)"),
        ({"state": "running"}, "It is running, or was killed, at step 100 of 100"),
        (
            {"state": "failed", "step": 40, "reason": "it broke"},
            "It failed after step 100 of 100 (it broke), and its newest checkpoint is of step 40",
        ),
        ({"version": 9}, "It is in an unknown state"),
    ],
)
def test_the_summary_says_how_a_run_stands(make_run: MakeRun, status: dict[str, object], words: str) -> None:
    [run] = read_runs([make_run(rows=full_rows(), log=LOG, status=status)])
    assert words in paragraph(run)
    assert "the AUC of the discriminator is 0.62 on held-out text" in paragraph(run)
    assert "vary 0.5 times as much" in paragraph(run)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("weight_power", 0.5, "corruption.weight_power 0.5"),
        ("importance_weights", False, "weight_power 0"),
        ("mixture", 0.1, ""),
    ],
)
def test_a_ratio_of_two_objectives_is_called_one(make_run: MakeRun, key: str, value: object, shown: str) -> None:
    changes = {"corruption.sampler": "hp_loss", f"corruption.{key}": value}
    [run] = read_runs([make_run(rows=full_rows(), **changes)])
    assert ("These are losses of two objectives" in paragraph(run)) == bool(shown)
    assert shown in paragraph(run)


def test_a_run_that_has_not_left_the_warmup_says_so(make_run: MakeRun) -> None:
    [run] = read_runs([make_run(rows=[row(step, joint=False) for step in (1, 2)])])
    assert "The first 6 steps train the generator alone, and it has not got further." in paragraph(run)
    assert "AUC" not in paragraph(run)


def test_the_hardware_is_what_the_run_recorded_of_all_its_lives(make_run: MakeRun) -> None:
    folder = make_run(rows=full_rows(), log=LOG)
    [run] = read_runs([folder])
    assert "2 ranks (cpu)" in paragraph(run)
    lives = [
        {"step": 0, "device": "NVIDIA A100", "ranks": 8, "hosts": 2},
        {"step": 50, "device": "NVIDIA H100", "ranks": 1, "hosts": 1},
    ]
    (folder / "hardware.json").write_text(json.dumps({"version": 1, "starts": lives}))
    [run] = read_runs([folder])
    line = "8 ranks on 2 hosts (NVIDIA A100); from step 50 1 rank on 1 host (NVIDIA H100)"
    assert f" on {line}." in paragraph(run)
    assert line in facts([run])
    (folder / "hardware.json").write_text('{"starts": [{"step": 0}]}')
    [run] = read_runs([folder])
    assert "2 ranks (cpu)" in paragraph(run)
    assert ["hardware.json" in note for note in run.notes] == [True]


def test_scores_of_other_commands_are_read_and_what_cannot_be_is_noted(make_run: MakeRun) -> None:
    folder = make_run(rows=full_rows())
    write_scores(folder)
    write_scores(folder, random=True)
    older = json.loads((folder / "evaluation" / "pairs-100.json").read_text()) | {"step": 50}
    (folder / "evaluation" / "pairs-50.json").write_text(json.dumps(older))
    layer = json.loads((folder / "evaluation" / "pairs-100.json").read_text()) | {"probe": "linear"}
    for name in ("layer=1", "layer=2"):
        (folder / "evaluation" / f"linear-{name}-100.json").write_text(json.dumps(layer))
    (folder / "evaluation" / "other.json").write_text('{"version": 2}')
    (folder / "evaluation" / "broken.json").write_text("{")
    [run] = read_runs([folder])
    assert [(found.probe, found.variant, found.random, found.step) for found in run.scores.evaluations] == [
        ("linear", "layer=1", False, 100),
        ("linear", "layer=2", False, 100),
        ("pairs", "", False, 100),
        ("pairs", "", True, 100),
    ]
    tuned = run.scores.tuned[0]
    assert (tuned.task, tuned.metric, tuned.main, tuned.spread) == ("cola", "matthews", 0.21, 0.01)
    assert tuned.seeds == pytest.approx((0.2, 0.21, 0.22))
    assert len(run.notes) == 2
    assert ["cannot be read" in note or "has version 2" in note for note in run.notes] == [True, True]


def test_only_settings_that_differ_are_named(make_run: MakeRun) -> None:
    folders = [make_run("a/run"), make_run("b/run", **{"corruption.sampler": "electra", "optimizer.clip": 2.0})]
    (folders[1] / "deepspeed.json").write_text('{"zero_optimization": {"stage": 1}}')
    runs = read_runs([*folders, folders[0]])
    assert [run.label for run in runs] == ["a/run", "b/run"]
    assert dict(differences(runs)) == {
        "corruption.sampler": ["hp_loss", "electra"],
        "optimizer.clip": [None, 2.0],
        "DeepSpeed JSON: zero_optimization.stage": [2, 1],
    }


def test_damaged_files_are_noted_and_the_rest_is_shown(make_run: MakeRun) -> None:
    folder = make_run(rows=full_rows(), log=LOG)
    (folder / "recipe.yaml").write_text("a: [")
    (folder / "data.json").write_text("[]")
    (folder / "versions.json").unlink()
    (folder / "status.json").write_text("{")
    (folder / "changes.jsonl").write_text("{}\n")
    (folder / "log.txt").write_bytes(b"\xff\xfe 2026-13-99 99:99:99 starting\n2026-02-31 10:00:00 x\n")
    [run] = read_runs([folder])
    assert [note.split()[0].rsplit("/", 1)[-1] for note in run.notes] == [
        "recipe.yaml",
        "status.json",
        "data.json",
        "versions.json",
        "changes.jsonl",
    ]
    assert len(run.rows) == 100


def test_what_is_no_run_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name in ("none", "file", "empty"):
        with pytest.raises(UserError, match="is not a run folder") as error:
            read_runs([tmp_path / name])
        assert "\n" not in str(error.value)
