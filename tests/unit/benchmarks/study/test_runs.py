"""Planning and running the study: everything once, nothing twice, and again from where it stopped."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from pathlib import Path

import pytest

from benchmarks.study.arms import DOWNSTREAM, Study, Warmup, arms_in
from benchmarks.study.runs import (
    WARMUP_SEEDS,
    Job,
    Runner,
    Task,
    arm_job,
    keep_settings,
    plan,
    probe_file,
)
from benchmarks.study.study import arguments, chosen, main, plan_text, take_lock
from data_pipeline.errors import UserError
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.phases import learning_rate, phases

from .conftest import MASKED_ALONE, write_arm, write_arms, write_checkpoint


def options_of(job: Job, task: str = "train") -> dict[str, str]:
    command = next(found.command for found in job.tasks if found.label == task)
    return {name: value for name, value in itertools.pairwise(command) if name.startswith("--")}


def test_every_arm_meets_every_seed_once_after_one_warm_up_a_seed(small: Study) -> None:
    jobs = plan(small)
    assert [job.label for job in jobs] == [
        f"seed {seed} {name}" for seed in (0, 1) for name in ("warm-up", "electra", "hp_loss_own")
    ]
    assert [job.needs for job in jobs[:3]] == [(), ("seed 0 warm-up",), ("seed 0 warm-up",)]
    assert [job.needs for job in jobs[4:]] == [("seed 0 warm-up", "seed 1 warm-up")] * 2
    assert len({job.folder for job in jobs}) == 6


def test_arms_of_a_seed_differ_in_nothing_but_the_arm(small: Study) -> None:
    electra, own = (options_of(arm_job(small, arm, 1)) for arm in small.arms)
    assert electra["--model.init_from"] == str(small.start(1, Warmup()))
    assert electra["--seed"] == "1"
    assert electra["--generator_warmup.steps"] == "0"
    assert electra["--schedule.steps"] == "40"
    assert {name for name in electra if electra[name] != own[name]} == {"--config", "--run_dir"}


def test_the_common_generator_is_there_whatever_seeds_are_asked_for(small: Study) -> None:
    first, second, *arms = plan(dataclasses.replace(small, seeds=(2,)))
    assert [first.label, second.label] == ["seed 0 warm-up", "seed 2 warm-up"]
    for job in arms:
        assert options_of(job, "detect")["--generator"] == str(small.warmup(0, Warmup()))


def test_a_generator_has_not_seen_the_samples_that_its_arms_train_on(small: Study) -> None:
    assert len({options_of(job)["--seed"] for job in plan(small)}) == 4


def test_a_warm_up_has_one_joint_step_at_a_fraction_of_the_rate(small: Study) -> None:
    recipe = parse_recipe(recipe_parser("test"), [*small.configs(), "--schedule.steps", "1"])[0]
    assert options_of(plan(small)[0])["--schedule.steps"] == "1"
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
    assert options_of(arm_job(asked, "hp_loss_own", 0), "tune")["--suite"] == str(DOWNSTREAM)
    with pytest.raises(UserError, match="--data"):
        chosen(arguments(["--recipes", str(small.recipes), "--tuned", "electra"]))


@pytest.fixture
def mixed(small: Study) -> Study:
    """Besides two arms of one encoder: the same two of another, and masked prediction alone."""
    sizes = {"model": {"generator": {"layers": 1, "hidden": 16, "ffn": 64, "heads": 1}}}
    write_arm(small.recipes, "a_wide_hp", corruption={"sampler": "hp_loss"}, **sizes)
    write_arm(small.recipes, "wide", **sizes)
    write_arm(small.recipes, "mlm", **MASKED_ALONE)
    return dataclasses.replace(small, arms=("electra", "a_wide_hp", "wide", "mlm"), seeds=(1,))


def test_arms_that_differ_in_what_a_warm_up_reads_have_one_each_as_plain_as_they_are(mixed: Study) -> None:
    own = Warmup("wide")
    assert mixed.starts == {"a_wide_hp": own, "electra": Warmup(), "hp_loss_own": Warmup(), "mlm": None, "wide": own}
    labels = [job.label for job in plan(mixed)]
    both = [f"seed {seed} warm-up{of}" for seed in (0, 1) for of in ("", " of wide")]
    assert labels == [*both, *(f"seed 1 {arm}" for arm in mixed.arms)]
    job = next(job for job in plan(mixed) if job.label == "seed 1 a_wide_hp")
    assert set(job.needs) == {"seed 0 warm-up", "seed 0 warm-up of wide", "seed 1 warm-up of wide"}
    assert options_of(job)["--model.init_from"] == str(mixed.start(1, own))
    detect = next(task.command for task in job.tasks if task.label == "detect")
    assert {str(mixed.warmup(0, warmup)) for warmup in (own, Warmup())} <= set(detect)


def test_an_arm_without_a_warm_up_is_a_whole_run_that_begins_as_a_warm_up_does(mixed: Study) -> None:
    given = options_of(arm_job(mixed, "mlm", 1))
    assert given["--seed"] == str(WARMUP_SEEDS + 1) == options_of(plan(mixed)[2])["--seed"]
    assert not {"--model.init_from", "--generator_warmup.steps"} & set(given)


def test_beside_masked_prediction_alone_every_arm_is_measured_by_what_it_predicts(mixed: Study, small: Study) -> None:
    predicted = ["pairs by generator", "masked tokens"]
    labels = {arm: [task.label for task in arm_job(mixed, arm, 1).tasks] for arm in mixed.arms}
    assert labels["mlm"] == ["train", "detect", *predicted]
    assert labels["electra"] == ["train", "probe", "detect", "pairs", *predicted]
    assert options_of(arm_job(mixed, "mlm", 1), "pairs by generator")["--pairs-by"] == "generator"


def test_a_study_without_probes_is_not_probed(small: Study) -> None:
    write_arm(small.recipes, "hp_loss_own", corruption={"sampler": "hp_loss"}, logging={"probe_every": 0})
    labels = {arm: [task.label for task in arm_job(small, arm, 0).tasks] for arm in small.arms}
    assert ("probe" in labels["electra"], "probe" in labels["hp_loss_own"]) == (True, False)


def test_a_folder_without_any_warm_up_is_refused(small: Study) -> None:
    write_arm(small.recipes, "electra", **MASKED_ALONE)
    (small.recipes / "hp_loss_own.yaml").unlink()
    with pytest.raises(UserError, match=r"no arm of .* has a warm-up of the generator"):
        _ = dataclasses.replace(small).warmups


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
    recipes = write_arms(tmp_path, b={}, a={"mixture": 0.5}, c={"sampler": "hp_loss"})
    assert arms_in(recipes) == ("a", "b", "c")
    assert chosen(arguments(["--recipes", str(recipes)])).arms == ("b", "a", "c")
    write_arm(recipes, "b", corruption={"focal_gamma": 2.0})
    with pytest.raises(UserError, match=r"no arm that is base\.yaml unchanged"):
        chosen(arguments(["--recipes", str(recipes)]))


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
    """One that waits for the job ``warmup``, unless it is that."""
    return Job(folder.name, folder, tasks, 1.0, () if folder.name == "warmup" else ("warmup",))


def test_jobs_run_once_and_those_that_failed_again(tmp_path: Path) -> None:
    reported: list[str] = []
    calls: list[int] = []
    warmup = job_of(tmp_path / "warmup", writing(tmp_path / "start"))
    good = job_of(tmp_path / "good", writing(tmp_path / "a"), writing(tmp_path / "b"))
    bad = job_of(tmp_path / "bad", writing(tmp_path / "c", "half", code=1), writing(tmp_path / "d"))
    runner = Runner(tmp_path / "logs", reported.append)
    assert runner.run([warmup, good, bad], lambda: calls.append(1)) == ["bad"]
    assert [(tmp_path / name).read_text() for name in ("start", "a", "b")] == ["whole"] * 3
    assert not (tmp_path / "c").exists(), "half an output counts for nothing"
    assert not (tmp_path / "d").exists()
    assert len(calls) == 1

    mended = job_of(tmp_path / "bad", writing(tmp_path / "c"), writing(tmp_path / "d"))
    assert runner.run([warmup, good, mended], lambda: calls.append(1)) == []
    assert [(tmp_path / name).read_text() for name in ("start", "a", "b", "c", "d")] == ["whole"] * 5
    assert len(calls) == 2


def test_an_arm_without_its_warm_up_is_not_started(tmp_path: Path) -> None:
    warmup = job_of(tmp_path / "warmup", writing(tmp_path / "start", code=3))
    arm = job_of(tmp_path / "arm", writing(tmp_path / "a"))
    assert Runner(tmp_path / "logs", lambda _: None).run([warmup, arm], lambda: None) == ["warmup", "arm"]
    assert not (tmp_path / "a").exists()


def test_what_may_fail_is_passed_over(tmp_path: Path) -> None:
    reported: list[str] = []
    warmup = job_of(tmp_path / "warmup", writing(tmp_path / "start"))
    arm = job_of(tmp_path / "arm", writing(tmp_path / "a", code=2, optional=True), writing(tmp_path / "b"))
    assert Runner(tmp_path / "logs", reported.append).run([warmup, arm], lambda: None) == []
    assert (tmp_path / "b").exists()
    assert any("not measured" in line for line in reported)


def test_stopping_ends_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    def sleeping(name: str) -> Job:
        program = f"import pathlib, time; pathlib.Path({str(tmp_path / name)!r}).touch(); time.sleep(300)"
        return job_of(tmp_path / f"job-{name}", Task("sleep", ("-c", program), lambda: False))

    runner = Runner(tmp_path / "logs", lambda _: None)
    warmup = job_of(tmp_path / "warmup", writing(tmp_path / "start"))
    failed: list[str] = []
    jobs = [warmup, *(sleeping(name) for name in ("a", "b", "c"))]
    study = threading.Thread(target=lambda: failed.extend(runner.run(jobs, lambda: None)))
    study.start()
    deadline = time.monotonic() + 60
    while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    runner.stop()
    study.join(60)
    assert not study.is_alive()
    assert failed == ["job-a", "job-b", "job-c"]
    assert not (tmp_path / "c").exists()
