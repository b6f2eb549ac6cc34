"""Planning and running the study: everything once, nothing twice, and again from where it stopped."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from pathlib import Path

import pytest
import yaml

from benchmarks.study.runs import (
    DOWNSTREAM,
    TUNED,
    Job,
    Runner,
    Study,
    Task,
    arm_job,
    arms_in,
    keep_settings,
    plan,
    probe_file,
)
from benchmarks.study.study import arguments, chosen, main, plan_text, take_lock
from data_pipeline.errors import UserError
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.phases import learning_rate, phases

from .conftest import write_arms, write_checkpoint


def options_of(job: Job, task: str = "train") -> dict[str, str]:
    command = next(found.command for found in job.tasks if found.label == task)
    return {name: value for name, value in itertools.pairwise(command) if name.startswith("--")}


def test_every_arm_meets_every_seed_once_after_one_warm_up_a_seed(small: Study) -> None:
    warmups, arms = plan(small)
    assert list(warmups) == [0, 1]
    assert [(seed, job.folder.name) for seed, job in arms] == [
        (0, "electra"),
        (0, "hp_loss_own"),
        (1, "electra"),
        (1, "hp_loss_own"),
    ]
    assert len({job.folder for _, job in arms} | {job.folder for job in warmups.values()}) == 6


def test_arms_of_a_seed_differ_in_nothing_but_the_arm(small: Study) -> None:
    electra, own = (options_of(arm_job(small, arm, 1)) for arm in small.arms)
    assert electra["--model.init_from"] == str(small.start(1))
    assert electra["--seed"] == "1"
    assert electra["--generator_warmup.steps"] == "0"
    assert electra["--schedule.steps"] == "40"
    assert {name for name in electra if electra[name] != own[name]} == {"--config", "--run_dir"}


def test_the_common_generator_is_there_whatever_seeds_are_asked_for(small: Study) -> None:
    warmups, arms = plan(dataclasses.replace(small, seeds=(2,)))
    assert list(warmups) == [0, 2]
    for _, job in arms:
        assert options_of(job, "detect")["--generator"] == str(small.warmup(0))


def test_a_generator_has_not_seen_the_samples_that_its_arms_train_on(small: Study) -> None:
    warmups, arms = plan(small)
    seeds = [options_of(job)["--seed"] for job in [*warmups.values(), *(job for _, job in arms)]]
    assert len(set(seeds)) == 4


def test_a_warm_up_has_one_joint_step_at_a_fraction_of_the_rate(small: Study) -> None:
    recipe = parse_recipe(recipe_parser("test"), [*small.configs(), "--schedule.steps", "1"])[0]
    assert options_of(plan(small)[0][0])["--schedule.steps"] == "1"
    *_, joint = phases(recipe)
    assert learning_rate(joint, joint.first, recipe) == joint.peak_rate / recipe.schedule.warmup_steps


def test_what_is_finished_is_not_open(small: Study) -> None:
    job = arm_job(small, "electra", 0)
    labels = [task.label for task in job.open_tasks()]
    assert labels == ["train", "probe", "detect", "pairs"]
    write_checkpoint(job.folder, 30)
    assert [task.label for task in job.open_tasks()] == labels, "a killed run is not finished"
    write_checkpoint(job.folder, 40)
    assert [task.label for task in job.open_tasks()] == ["probe", "detect", "pairs"]
    (job.folder / "pairs").mkdir()
    (job.folder / "detection.json").write_text("{}")
    probe_file(job.folder, 40).parent.mkdir()
    probe_file(job.folder, 40).write_text("{}")
    assert job.open_tasks() == []


def test_encoders_are_asked_where_there_are_labelled_rows_and_tuned_where_that_is_wanted(small: Study) -> None:
    asked = dataclasses.replace(small, data=Path("rows"), tuned=("hp_loss_own",))
    labels = {arm: [task.label for task in arm_job(asked, arm, 0).tasks] for arm in small.arms}
    assert labels["electra"] == ["train", "probe", "detect", "pairs", "frozen"]
    assert labels["hp_loss_own"] == [*labels["electra"], "tune"]
    assert yaml.safe_load(DOWNSTREAM.read_text())["tasks"] == list(TUNED)
    with pytest.raises(UserError, match="--data"):
        chosen(arguments(["--recipes", str(small.recipes), "--tuned", "electra"]))


def test_the_plan_says_what_is_left_and_how_long_it_takes(small: Study) -> None:
    text = plan_text(small)
    assert "6 runs" in text
    assert "train, probe, detect" in text
    assert " min on two free cores" in text
    longer = plan_text(dataclasses.replace(small, steps=100_000))
    assert int(longer.split("about ")[1].split()[0]) > int(text.split("about ")[1].split()[0])


def test_a_dry_run_leaves_nothing_behind(small: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(small.out), "--recipes", str(small.recipes), "--dry-run", "--seeds", "0"]) == 0
    assert "seed 0 hp_loss_own" in capsys.readouterr().out
    assert not small.out.exists()


def test_an_arm_that_is_not_there_is_refused_naming_those_that_are(small: Study) -> None:
    with pytest.raises(UserError, match=r"no arm is called hp_los; there are electra, hp_loss_own"):
        chosen(arguments(["--recipes", str(small.recipes), "--arms", "hp_los"]))


def test_a_study_without_text_says_what_is_missing(small: Study, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--out", str(small.out), "--recipes", str(small.recipes)]
    assert main(given) == 2
    assert "--corpus FOLDER" in capsys.readouterr().err
    assert main([*given, "--corpus", str(small.out / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main([*given, "--report"]) == 2
    assert "holds no study" in capsys.readouterr().err


def test_the_baseline_comes_first(tmp_path: Path) -> None:
    assert arms_in(write_arms(tmp_path, b={}, a={}, electra={})) == ("electra", "a", "b")


def test_a_folder_keeps_one_study(small: Study) -> None:
    keep_settings(small)
    keep_settings(small)
    keep_settings(dataclasses.replace(small, seeds=(0, 1, 2)))
    with pytest.raises(UserError, match=r"other settings \(steps\)"):
        keep_settings(dataclasses.replace(small, steps=50))
    write_arms(small.recipes, hp_loss_own={"sampler": "hp_loss", "mixture": 0.5}, third={"sampler": "hp_dist"})
    keep_settings(dataclasses.replace(small, arms=("electra", "third")))
    with pytest.raises(UserError, match=r"other settings \(hp_loss_own.yaml\)"):
        keep_settings(small)


def test_one_study_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    lock = take_lock(tmp_path)
    with pytest.raises(UserError, match="a study is running"):
        take_lock(tmp_path)
    os.close(lock)
    os.close(take_lock(tmp_path))


def writing(path: Path, text: str = "whole", code: int = 0, optional: bool = False) -> Task:
    """A task that writes a file in place of its output and leaves with a code."""
    program = f"import sys; open(sys.argv[1], 'a').write({text!r}); sys.exit({code})"
    return Task(path.name, ("-c", program, "{partial}"), path.exists, output=path, optional=optional)


def job_of(folder: Path, *tasks: Task) -> Job:
    return Job(folder.name, folder, tasks, 1.0)


def test_jobs_run_once_and_those_that_failed_again(tmp_path: Path) -> None:
    reported: list[str] = []
    calls: list[int] = []
    warmup = job_of(tmp_path / "warmup", writing(tmp_path / "start"))
    good = job_of(tmp_path / "good", writing(tmp_path / "a"), writing(tmp_path / "b"))
    bad = job_of(tmp_path / "bad", writing(tmp_path / "c", "half", code=1), writing(tmp_path / "d"))
    runner = Runner(tmp_path / "logs", reported.append)
    assert runner.run({0: warmup}, [(0, good), (0, bad)], lambda: calls.append(1)) == ["bad"]
    assert [(tmp_path / name).read_text() for name in ("start", "a", "b")] == ["whole"] * 3
    assert not (tmp_path / "c").exists(), "half an output counts for nothing"
    assert not (tmp_path / "d").exists()
    assert len(calls) == 1

    mended = job_of(tmp_path / "bad", writing(tmp_path / "c"), writing(tmp_path / "d"))
    assert runner.run({0: warmup}, [(0, good), (0, mended)], lambda: calls.append(1)) == []
    assert [(tmp_path / name).read_text() for name in ("start", "a", "b", "c", "d")] == ["whole"] * 5
    assert len(calls) == 2


def test_an_arm_without_its_warm_up_is_not_started(tmp_path: Path) -> None:
    warmup = job_of(tmp_path / "warmup", writing(tmp_path / "start", code=3))
    arm = job_of(tmp_path / "arm", writing(tmp_path / "a"))
    assert Runner(tmp_path / "logs", lambda _: None).run({0: warmup}, [(0, arm)], lambda: None) == ["warmup", "arm"]
    assert not (tmp_path / "a").exists()


def test_what_may_fail_is_passed_over(tmp_path: Path) -> None:
    reported: list[str] = []
    warmup = job_of(tmp_path / "warmup", writing(tmp_path / "start"))
    arm = job_of(tmp_path / "arm", writing(tmp_path / "a", code=2, optional=True), writing(tmp_path / "b"))
    assert Runner(tmp_path / "logs", reported.append).run({0: warmup}, [(0, arm)], lambda: None) == []
    assert (tmp_path / "b").exists()
    assert any("not measured" in line for line in reported)


def test_stopping_ends_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    def sleeping(name: str) -> Job:
        program = f"import pathlib, time; pathlib.Path({str(tmp_path / name)!r}).touch(); time.sleep(300)"
        return job_of(tmp_path / f"job-{name}", Task("sleep", ("-c", program), lambda: False))

    runner = Runner(tmp_path / "logs", lambda _: None)
    warmup = job_of(tmp_path / "warmup", writing(tmp_path / "start"))
    failed: list[str] = []
    arms = [(0, sleeping(name)) for name in ("a", "b", "c")]
    study = threading.Thread(target=lambda: failed.extend(runner.run({0: warmup}, arms, lambda: None)))
    study.start()
    deadline = time.monotonic() + 60
    while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    runner.stop()
    study.join(60)
    assert not study.is_alive()
    assert failed == ["job-a", "job-b", "job-c"]
    assert not (tmp_path / "c").exists()
